"""The quota book that gateways share: one script a step, so that no interleaving admits more than the limit; times are the server's.

An account has four keys: `requests` and `tokens` (hashes: step → count), `turns` (sorted set: turn → when its lease ends) and
`held` (hash: turn → "step:reserved tokens"). All keys of a tenant lie in one slot of a cluster.
"""

from collections.abc import Sequence

from services.gateway.quota import CHECKS, WINDOWS, Ask, Fill, Limit, Scope, Verdict
from services.gateway.shared.link import Link, Script, Use

MAX_REAPED = 200

_ACCOUNT = f"""
local clock = redis.call('TIME')
local now = clock[1] * 1000 + math.floor(clock[2] / 1000)
local REQUESTS, TOKENS, TURNS, HELD = 0, 1, 2, 3
local SPAN = {{[REQUESTS] = {WINDOWS[Limit.REQUESTS].span_ms}, [TOKENS] = {WINDOWS[Limit.TOKENS].span_ms}}}
local STEP = {{[REQUESTS] = {WINDOWS[Limit.REQUESTS].step_ms}, [TOKENS] = {WINDOWS[Limit.TOKENS].step_ms}}}
local KEEP = {2 * WINDOWS[Limit.TOKENS].span_ms}

local function step_now(what) return math.floor(now / STEP[what]) end

local function leaves_in(step, what) return (step + 1) * STEP[what] + SPAN[what] - now end

-- What has a count goes on; `account` is the index of the account's first key.
local function add(account, what, step, count)
  local key = KEYS[account + what]
  if redis.call('HINCRBY', key, step, count) < 0 then redis.call('HSET', key, step, 0) end
  redis.call('PEXPIRE', key, SPAN[what] + STEP[what])
end

local function hold(account, turn, lease, tokens)
  if redis.call('HSETNX', KEYS[account + HELD], turn, step_now(TOKENS) .. ':' .. tokens) == 1 and tokens > 0 then
    add(account, TOKENS, step_now(TOKENS), tokens)
  end
  redis.call('ZADD', KEYS[account + TURNS], now + lease, turn)
  redis.call('PEXPIRE', KEYS[account + TURNS], KEEP)
  redis.call('PEXPIRE', KEYS[account + HELD], KEEP)
end

-- The end of a turn: what it reserved becomes what it used, while that step still counts.
local function settle(account, turn, used)
  local held = redis.call('HGET', KEYS[account + HELD], turn)
  if not held then return end
  local step, reserved = held:match('(%d+):(%d+)')
  if redis.call('HEXISTS', KEYS[account + TOKENS], step) == 1 then
    add(account, TOKENS, step, used - tonumber(reserved))
  end
  redis.call('HDEL', KEYS[account + HELD], turn)
  redis.call('ZREM', KEYS[account + TURNS], turn)
end
"""

# ARGV: turn, lease in ms, tokens, then for user and tenant: requests, tokens, turns at most (0: no limit).
# Reply: which of CHECKS refused, from 1 (0: none), ms to wait, then for user and tenant: requests and ms to reset, tokens and ms to reset.
ADMIT = Script(
    _ACCOUNT
    + f"""
local lease, asked = tonumber(ARGV[2]), tonumber(ARGV[3])
local needs = {{[REQUESTS] = 1, [TOKENS] = asked, [TURNS] = 1}}
local accounts = {{1, 5}}
local function most(number, what) return tonumber(ARGV[3 + 3 * (number - 1) + what + 1]) end

local function read(account, what)
  local key, steps, sum = KEYS[account + what], {{}}, 0
  local all = redis.call('HGETALL', key)
  for i = 1, #all, 2 do
    local step, count = tonumber(all[i]), tonumber(all[i + 1])
    if leaves_in(step, what) <= 0 then
      redis.call('HDEL', key, all[i])
    else
      sum = sum + count
      steps[#steps + 1] = {{step, count}}
    end
  end
  table.sort(steps, function(a, b) return a[1] < b[1] end)
  return sum, steps
end

local function frees_in(steps, what, excess)
  for _, step in ipairs(steps) do
    excess = excess - step[2]
    if excess <= 0 then return leaves_in(step[1], what) end
  end
  return SPAN[what]
end

local used, steps = {{}}, {{}}
for number, account in ipairs(accounts) do
  used[number], steps[number] = {{}}, {{}}
  for _, turn in ipairs(redis.call('ZRANGEBYSCORE', KEYS[account + TURNS], '-inf', now, 'LIMIT', 0, {MAX_REAPED})) do
    settle(account, turn, 0)
    redis.call('ZREM', KEYS[account + TURNS], turn)
  end
  used[number][TURNS] = redis.call('ZCOUNT', KEYS[account + TURNS], '(' .. now, '+inf')
  for _, what in ipairs({{REQUESTS, TOKENS}}) do
    used[number][what], steps[number][what] = 0, {{}}
    if most(number, what) > 0 then used[number][what], steps[number][what] = read(account, what) end
  end
end

local refused, wait = 0, 0
for check, what in ipairs({{REQUESTS, TURNS, TOKENS}}) do
  for number, account in ipairs(accounts) do
    local excess = used[number][what] + needs[what] - most(number, what)
    if refused == 0 and most(number, what) > 0 and excess > 0 then
      refused = 2 * (check - 1) + number
      wait = what == TURNS and 1000 or frees_in(steps[number][what], what, excess)
    end
  end
end

if refused == 0 then
  for number, account in ipairs(accounts) do
    if most(number, REQUESTS) > 0 then
      add(account, REQUESTS, step_now(REQUESTS), 1)
    end
    hold(account, ARGV[1], lease, most(number, TOKENS) > 0 and asked or 0)
  end
end

local reply = {{refused, wait}}
for number, account in ipairs(accounts) do
  for _, what in ipairs({{REQUESTS, TOKENS}}) do
    local sum, reset = used[number][what], 0
    for _, step in ipairs(steps[number][what]) do
      if step[2] > 0 then reset = leaves_in(step[1], what) end
    end
    if refused == 0 and most(number, what) > 0 then
      sum, reset = sum + needs[what], leaves_in(step_now(what), what)
    end
    reply[#reply + 1] = sum
    reply[#reply + 1] = reset
  end
end
return reply
"""
)

# ARGV: turn, lease in ms, reserved tokens of the user and of the tenant.
HOLD = Script(
    _ACCOUNT
    + """
for number, account in ipairs({1, 5}) do
  hold(account, ARGV[1], tonumber(ARGV[2]), tonumber(ARGV[2 + number]))
end
"""
)

# ARGV: turn, used tokens.
SETTLE = Script(
    _ACCOUNT
    + """
for _, account in ipairs({1, 5}) do settle(account, ARGV[1], tonumber(ARGV[2])) end
"""
)


class ValkeyBook:
    """See `quotas.SharedBook`."""

    def __init__(self, link: Link, lease_seconds: float) -> None:
        self._link, self._lease_ms = link, int(1000 * lease_seconds)

    async def admit(self, ask: Ask) -> Verdict:
        limits = [ask.most(scope, limit) for scope in Scope for limit in Limit]
        reply = await self._link.run(
            Use.QUOTAS, ADMIT, keys_of(ask), ask.id, self._lease_ms, ask.tokens, *limits
        )
        return _verdict(ask, [int(number) for number in reply])

    async def hold(self, ask: Ask) -> None:
        reserved = [ask.tokens if ask.most(scope, Limit.TOKENS) else 0 for scope in Scope]
        await self._link.run(Use.QUOTAS, HOLD, keys_of(ask), ask.id, self._lease_ms, *reserved)

    async def settle(self, ask: Ask, used_tokens: int) -> None:
        await self._link.run(Use.QUOTAS, SETTLE, keys_of(ask), ask.id, used_tokens)


def keys_of(ask: Ask) -> list[str]:
    """The keys of both accounts, the user's first."""
    tenant = f"tw:{{quota/{ask.caller.tenant}}}"
    accounts = (f"{tenant}:user/{ask.caller.user}", f"{tenant}:tenant")
    return [f"{account}:{name}" for account in accounts for name in ("requests", "tokens", "turns", "held")]


def _verdict(ask: Ask, reply: Sequence[int]) -> Verdict:
    fills = {}
    for place, (scope, limit) in enumerate((scope, limit) for scope in Scope for limit in WINDOWS):
        if ask.most(scope, limit):
            used, reset_ms = reply[2 + 2 * place : 4 + 2 * place]
            fills[scope, limit] = Fill(used, reset_ms / 1000)
    refused = CHECKS[reply[0] - 1] if reply[0] else None
    return Verdict(refused, reply[1] / 1000, fills)
