"""Quota store in Valkey. One atomic script per operation excludes admission above the limit.

The scripts use the server's time. An account has six keys: `requests`, `tokens`, `feedback` and
`erasures` (hashes: step → count), `turns` (sorted set: turn → end of its lease) and `held` (hash:
turn → "step:reserved tokens"). KEYS are those of the user, of the shared key if any, and of the
tenant.
"""

from collections.abc import Mapping
from dataclasses import dataclass

from services.gateway.quotas.quota import (
    TURN_RETRY_SECONDS,
    WINDOWS,
    Holder,
    Limit,
    QuotaDecision,
    QuotaRequest,
    Window,
    WindowUsage,
    check_order,
)
from services.gateway.shared.valkey_client import Script, Use, ValkeyClient

ACCOUNT = """
local clock = redis.call('TIME')
local now = clock[1] * 1000 + math.floor(clock[2] / 1000)
local ACCOUNTS = {}  -- offset of the keys of each account
for first = 1, #KEYS, HELD + 1 do ACCOUNTS[#ACCOUNTS + 1] = first end

local function step_now(what) return math.floor(now / STEP[what]) end

local function leaves_in(step, what) return (step + 1) * STEP[what] + SPAN[what] - now end

local function add(account, what, step, count)
  local key = KEYS[account + what]
  if redis.call('HINCRBY', key, step, count) < 0 then redis.call('HSET', key, step, 0) end
  redis.call('PEXPIRE', key, SPAN[what] + STEP[what])
end

local function hold(account, turn, lease, tokens)
  local value = step_now(TOKENS) .. ':' .. tokens
  if redis.call('HSETNX', KEYS[account + HELD], turn, value) == 1 and tokens > 0 then
    add(account, TOKENS, step_now(TOKENS), tokens)
  end
  redis.call('ZADD', KEYS[account + TURNS], now + lease, turn)
  for _, key in ipairs({KEYS[account + TURNS], KEYS[account + HELD]}) do
    redis.call('PEXPIRE', key, lease + SPAN[TOKENS] + STEP[TOKENS])
  end
end

-- Replace the reservation by the actual usage while its step is in the window.
local function settle(account, turn, used)
  local held = redis.call('HGET', KEYS[account + HELD], turn)
  if held then
    local step, reserved = held:match('(%d+):(%d+)')
    if redis.call('HEXISTS', KEYS[account + TOKENS], step) == 1 then
      add(account, TOKENS, step, used - tonumber(reserved))
    end
    redis.call('HDEL', KEYS[account + HELD], turn)
  end
  redis.call('ZREM', KEYS[account + TURNS], turn)
end
"""

# ARGV: turn, lease in ms, then the needs, and for each account the maxima (0: unlimited), in the
# order of LIMITS. Reply: position in check_order of the rejecting limit, from 1 (0: admitted), ms
# to wait, then for each account and each limit of WINDOWED: the amount used, and ms to reset.
ADMIT = """
local lease = tonumber(ARGV[2])

local function needs(what) return tonumber(ARGV[3 + what]) end

-- The maximum of a limit that the request needs, otherwise 0.
local function most(number, what)
  return needs(what) > 0 and tonumber(ARGV[HELD * number + 3 + what]) or 0
end

local function read(account, what)
  local key, steps, sum = KEYS[account + what], {}, 0
  local all = redis.call('HGETALL', key)
  for i = 1, #all, 2 do
    local step, count = tonumber(all[i]), tonumber(all[i + 1])
    if leaves_in(step, what) <= 0 then
      redis.call('HDEL', key, all[i])
    else
      sum = sum + count
      steps[#steps + 1] = {step, count}
    end
  end
  table.sort(steps, function(a, b) return a[1] < b[1] end)
  return sum, steps
end

-- Milliseconds until `excess` has left the window.
local function frees_in(steps, what, excess)
  for _, step in ipairs(steps) do
    excess = excess - step[2]
    if excess <= 0 then return leaves_in(step[1], what) end
  end
  return SPAN[what]
end

local used, steps = {}, {}
for number, account in ipairs(ACCOUNTS) do
  used[number], steps[number] = {}, {}
  -- Expired leases: turns of killed gateways.
  local turns = KEYS[account + TURNS]
  for _, turn in ipairs(redis.call('ZRANGEBYSCORE', turns, '-inf', now, 'LIMIT', 0, 200)) do
    settle(account, turn, 0)
  end
  used[number][TURNS] = redis.call('ZCOUNT', KEYS[account + TURNS], '(' .. now, '+inf')
  for _, what in ipairs(WINDOWED) do
    used[number][what], steps[number][what] = 0, {}
    if most(number, what) > 0 then used[number][what], steps[number][what] = read(account, what) end
  end
end

local refused, wait = 0, 0
for check, what in ipairs({REQUESTS, FEEDBACK, TURNS, TOKENS, ERASURES}) do
  for number in ipairs(ACCOUNTS) do
    local excess = used[number][what] + needs(what) - most(number, what)
    if refused == 0 and most(number, what) > 0 and excess > 0 then
      refused = #ACCOUNTS * (check - 1) + number
      wait = what ~= TURNS and frees_in(steps[number][what], what, excess) or 0
    end
  end
end

if refused == 0 then
  for number, account in ipairs(ACCOUNTS) do
    for _, what in ipairs({REQUESTS, FEEDBACK, ERASURES}) do
      if most(number, what) > 0 then add(account, what, step_now(what), needs(what)) end
    end
    if needs(TURNS) > 0 then
      hold(account, ARGV[1], lease, most(number, TOKENS) > 0 and needs(TOKENS) or 0)
    end
  end
end

local reply = {refused, wait}
for number in ipairs(ACCOUNTS) do
  for _, what in ipairs(WINDOWED) do
    local sum, reset = used[number][what], 0
    for _, step in ipairs(steps[number][what]) do
      if step[2] > 0 then reset = leaves_in(step[1], what) end
    end
    if refused == 0 and most(number, what) > 0 then
      sum, reset = sum + needs(what), leaves_in(step_now(what), what)
    end
    reply[#reply + 1] = sum
    reply[#reply + 1] = reset
  end
end
return reply
"""

# ARGV: turn, lease in ms, reserved tokens of each account.
HOLD = """
for number, account in ipairs(ACCOUNTS) do
  hold(account, ARGV[1], tonumber(ARGV[2]), tonumber(ARGV[2 + number]))
end
"""

# ARGV: turn, used tokens.
SETTLE = """
for _, account in ipairs(ACCOUNTS) do settle(account, ARGV[1], tonumber(ARGV[2])) end
"""


# In the order of the constants of the scripts.
LIMITS = (Limit.REQUESTS, Limit.TOKENS, Limit.TURNS, Limit.FEEDBACK, Limit.ERASURES)
WINDOWED = (Limit.REQUESTS, Limit.TOKENS, Limit.FEEDBACK, Limit.ERASURES)


@dataclass(frozen=True)
class QuotaScripts:
    """Scripts of the shared quota store."""

    admit: Script
    hold: Script
    settle: Script


def quota_scripts(windows: Mapping[Limit, Window]) -> QuotaScripts:
    """Return the scripts for the given windows."""
    shared = {limit: window for limit, window in windows.items() if limit in WINDOWED}
    spans = ", ".join(f"[{each.upper()}] = {window.span_ms}" for each, window in shared.items())
    steps = ", ".join(f"[{each.upper()}] = {window.step_ms}" for each, window in shared.items())
    # HELD is the number of limits as well.
    head = f"""
local REQUESTS, TOKENS, TURNS, FEEDBACK, ERASURES, HELD = 0, 1, 2, 3, 4, 5
local WINDOWED = {{REQUESTS, TOKENS, FEEDBACK, ERASURES}}
local SPAN = {{{spans}}}
local STEP = {{{steps}}}
"""
    return QuotaScripts(*(Script(head + ACCOUNT + body) for body in (ADMIT, HOLD, SETTLE)))


class ValkeyQuotaStore:
    """Implements `quotas.SharedQuotaStore`.

    A reservation expires unless renewed within its lease.
    """

    def __init__(
        self, valkey: ValkeyClient, lease_seconds: float, windows: Mapping[Limit, Window] = WINDOWS
    ) -> None:
        self._valkey, self._lease_ms = valkey, int(1000 * lease_seconds)
        self._scripts = quota_scripts(windows)

    async def admit(self, request: QuotaRequest) -> QuotaDecision:
        needs = [request.needs.get(limit, 0) for limit in LIMITS]
        maxima = [request.maximum(holder, limit) for holder in request.holders for limit in LIMITS]
        keys, lease_ms = keys_of(request), self._lease_ms
        reply = await self._valkey.run(
            Use.QUOTAS, self._scripts.admit, keys, request.id, lease_ms, *needs, *maxima
        )
        usage = {}
        for place, (holder, limit) in enumerate(
            (holder, limit) for holder in request.holders for limit in WINDOWED
        ):
            if limit in request.needs and request.maximum(holder, limit):
                used, reset_ms = reply[2 + 2 * place : 4 + 2 * place]
                usage[holder, limit] = WindowUsage(used, reset_ms / 1000)
        if not reply[0]:
            return QuotaDecision(usage=usage)
        holder, limit = check_order(request)[reply[0] - 1]
        retry_seconds = TURN_RETRY_SECONDS if limit is Limit.TURNS else reply[1] / 1000
        return QuotaDecision((holder, limit), retry_seconds, usage)

    async def hold(self, request: QuotaRequest) -> None:
        reserved = [
            request.tokens if request.maximum(holder, Limit.TOKENS) else 0
            for holder in request.holders
        ]
        await self._valkey.run(
            Use.QUOTAS, self._scripts.hold, keys_of(request), request.id, self._lease_ms, *reserved
        )

    async def settle(self, request: QuotaRequest, used_tokens: int) -> None:
        await self._valkey.run(
            Use.QUOTAS, self._scripts.settle, keys_of(request), request.id, used_tokens
        )


def keys_of(request: QuotaRequest) -> list[str]:
    """Return the keys of all accounts, user first. A tenant's keys share one cluster slot."""
    tenant, caller = f"tw:{{quota/{request.caller.tenant}}}", request.caller
    names = {
        Holder.USER: f"{tenant}:user/{caller.user}",
        Holder.KEY: f"{tenant}:key/{caller.key_user}",
        Holder.TENANT: f"{tenant}:tenant",
    }
    # Same order as the constants of the Lua scripts.
    return [f"{names[holder]}:{name}" for holder in request.holders for name in (*LIMITS, "held")]
