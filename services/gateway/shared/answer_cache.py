"""Cached answers of all gateways, encrypted. Each tenant's number is limited; oldest go first."""

import json

from thumbwheel.chat.v1 import chat_pb2
from thumbwheel.generator.v1 import generator_pb2

from services.contracts.chat import Task
from services.contracts.wire import TASK_NUMBERS, TASKS
from services.gateway.answering.answer_cache import CachedAnswer, CacheKey
from services.gateway.metrics import CACHE_RESULTS
from services.gateway.shared.encryption import DecryptionError, KeyDerivation
from services.gateway.shared.valkey_client import Script, Use, ValkeyClient

# KEYS: answer, index of the tenant's answers by age. ARGV: encrypted answer, ms to live, maximum
# number of answers.
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

# Stored fields of the messages. Gateways of the previous version read the same format.
SELECTED_FIELDS = ("model_version", "arm", "assignment_probability", "temperature", "top_p")
USAGE_FIELDS = ("prompt_tokens", "completion_tokens", "cached")


class ValkeyCacheBackend:
    """Implements `answer_cache.CacheBackend` in Valkey."""

    def __init__(
        self, valkey: ValkeyClient, keys: KeyDerivation, seconds: float, entries: int
    ) -> None:
        self._valkey, self._keys, self._keep_ms, self._entries = (
            valkey,
            keys,
            int(1000 * seconds),
            entries,
        )

    async def find(self, cache_key: CacheKey) -> CachedAnswer | None:
        key = self._key(cache_key)
        sealed = await self._valkey.call(Use.ANSWERS, "GET", key)
        if sealed is None:
            return None
        try:
            value = json.loads(self._keys.encryptor(key).decrypt(sealed))
        except DecryptionError:
            CACHE_RESULTS.labels("unreadable").inc()
            return None
        task = TASK_NUMBERS[Task(value["selected"].pop("task"))]
        selected = generator_pb2.Selected(**value["selected"], task=task)
        return CachedAnswer(value["text"], selected, chat_pb2.Usage(**value["usage"]))

    async def store(self, cache_key: CacheKey, answer: CachedAnswer) -> None:
        key = self._key(cache_key)
        selected, usage = answer.selected, answer.usage
        value = {
            "text": answer.text,
            "selected": {
                **{name: getattr(selected, name) for name in SELECTED_FIELDS},
                "task": TASKS[selected.task],
            },
            "usage": {name: getattr(usage, name) for name in USAGE_FIELDS},
        }
        sealed = self._keys.encryptor(key).encrypt(json.dumps(value).encode())
        keys = [key, _index(cache_key.tenant)]
        await self._valkey.run(Use.ANSWERS, KEEP, keys, sealed, self._keep_ms, self._entries)

    async def drop_tenant(self, tenant: str) -> None:
        await self._valkey.run(Use.ANSWERS, DROP, [_index(tenant)])

    def _key(self, cache_key: CacheKey) -> str:
        return f"tw:{{answers/{cache_key.tenant}}}:{self._keys.fingerprint(cache_key.canonical())}"


def _index(tenant: str) -> str:
    return f"tw:{{answers/{tenant}}}:index"
