"""Answers that all gateways may show again, sealed. A tenant has a bounded number of them; the
oldest goes first.
"""

import json
from dataclasses import asdict
from typing import Any

from services.gateway.answer_cache import CachedAnswer, Question
from services.gateway.events import Usage
from services.gateway.generation import Selected
from services.gateway.metrics import ANSWERS
from services.gateway.request import Task
from services.gateway.shared.link import Link, Script, Use
from services.gateway.shared.seal import Seal, SealBrokenError

# KEYS: answer, index of the tenant's answers by age. ARGV: sealed answer, ms to keep it, most
# answers.
KEEP = Script("""
redis.call('SET', KEYS[1], ARGV[1], 'PX', ARGV[2])
local clock = redis.call('TIME')
redis.call('ZADD', KEYS[2], clock[1] * 1000000 + clock[2], KEYS[1])
redis.call('PEXPIRE', KEYS[2], ARGV[2])
local excess = redis.call('ZCARD', KEYS[2]) - tonumber(ARGV[3])
if excess > 0 then
  local oldest = redis.call('ZPOPMIN', KEYS[2], excess)
  for i = 1, #oldest, 2 do redis.call('DEL', oldest[i]) end
end
""")

# KEYS: index of the tenant's answers.
DROP = Script("""
for _, answer in ipairs(redis.call('ZRANGE', KEYS[1], 0, -1)) do redis.call('UNLINK', answer) end
redis.call('DEL', KEYS[1])
""")


class ValkeyAnswers:
    """See `answer_cache.Answers`."""

    def __init__(self, link: Link, seal: Seal, seconds: float, entries: int) -> None:
        self._link, self._seal, self._keep_ms, self._entries = link, seal, int(1000 * seconds), entries

    async def find(self, question: Question) -> CachedAnswer | None:
        key = self._key(question)
        sealed = await self._link.call(Use.ANSWERS, "GET", key)
        if sealed is None:
            return None
        try:
            return _answer(json.loads(self._seal.box(key).open(sealed)))
        except SealBrokenError:
            ANSWERS.labels("unreadable").inc()
            return None

    async def keep(self, question: Question, answer: CachedAnswer) -> None:
        key = self._key(question)
        sealed = self._seal.box(key).seal(json.dumps(asdict(answer)).encode())
        keys = [key, _index(question.tenant)]
        await self._link.run(Use.ANSWERS, KEEP, keys, sealed, self._keep_ms, self._entries)

    async def drop(self, tenant: str) -> None:
        await self._link.run(Use.ANSWERS, DROP, [_index(tenant)])

    def _key(self, question: Question) -> str:
        return f"tw:{{answers/{question.tenant}}}:{self._seal.fingerprint(question.canonical())}"


def _index(tenant: str) -> str:
    return f"tw:{{answers/{tenant}}}:index"


def _answer(value: Any) -> CachedAnswer:
    selected = {**value["selected"], "task": Task(value["selected"]["task"])}
    return CachedAnswer(value["text"], Selected(**selected), Usage(**value["usage"]))
