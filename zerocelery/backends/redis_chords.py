"""How a chord is counted in Redis: three scripts that run on the server, and how long a claim has to last.

Keys and answers are those that Celery's workers and tests expect, so that both can share a header. Beside a group's key
lie, with these endings:

====== =============================================================================================
``.j`` what the members ended with: sorted by index, or a list in the order of their ends
``.s`` how many members the header was sent with
``.t`` how many were added to it later
``.d`` which members have been counted, so that one that runs again is not counted again
``.c`` the claim: who is about to send the body, by a token of its own; ``done`` when it has been sent
====== =============================================================================================
"""

from __future__ import annotations

import math
from itertools import islice
from typing import Any

from kombu.utils import functional

__all__ = ("CHORD_CLAIM_EXTEND_LUA", "CHORD_CLEANUP_LUA", "CHORD_PART_RETURN_LUA", "publish_seconds")

fxrange: Any = functional.fxrange

#: Attempts that are reckoned with where a policy has no end.
_ATTEMPTS = 3

#: Count a member. Gives how many have ended, how many were added, the header's size, and whether the caller has got the
#: claim; -1 ended where the body has been sent already.
CHORD_PART_RETURN_LUA = """
local parts, extra, planned, seen, saved, claim = KEYS[1], KEYS[2], KEYS[3], KEYS[4], KEYS[5], KEYS[6]
local id, part, in_order, index = ARGV[1], ARGV[2], ARGV[3] ~= '0', ARGV[4]
local seconds, seconds_saved, seconds_claim, token = tonumber(ARGV[5]), tonumber(ARGV[6]), ARGV[7], ARGV[8]

local holder = redis.call('GET', claim)
if holder == 'done' then
  return {-1, 0, 0, 0}
end

if redis.call('SADD', seen, id .. ':' .. index) == 1 then
  if in_order then
    redis.call('ZADD', parts, index, part)
  else
    redis.call('RPUSH', parts, part)
  end
end

if seconds > 0 then
  for _, key in ipairs({parts, extra, planned, seen}) do
    redis.call('EXPIRE', key, seconds)
  end
  if seconds_saved > 0 then
    redis.call('EXPIRE', saved, seconds_saved)
  end
end

local ended = in_order and redis.call('ZCARD', parts) or redis.call('LLEN', parts)
local size, more = redis.call('GET', planned), redis.call('GET', extra)
local whole = size and ended == tonumber(size) + tonumber(more or '0')
local mine = 0
if whole and not holder then
  redis.call('SETEX', claim, seconds_claim, token)
  mine = 1
end
return {ended, more, size, mine}
"""

#: Remove a chord whose body was sent, and leave a mark for late copies of its members; the claim's holder may.
CHORD_CLEANUP_LUA = """
if redis.call('GET', KEYS[1]) == ARGV[1] then
  redis.call('SETEX', KEYS[1], ARGV[2], 'done')
  for i = 2, #KEYS do
    redis.call('DEL', KEYS[i])
  end
  return 1
end
return 0
"""

#: Hold a claim for so many seconds from now; a claim that has run out may be had again while the chord is there.
CHORD_CLAIM_EXTEND_LUA = """
local holder = redis.call('GET', KEYS[1])
local again = not holder and redis.call('EXISTS', KEYS[2]) == 1
if again or holder == ARGV[1] then
  redis.call('SETEX', KEYS[1], ARGV[2], ARGV[1])
  return 1
end
return 0
"""


def publish_seconds(claim: int, conf: Any, options: Any) -> int:
    """How long it may take to send the body: no other worker may think meanwhile that this one is lost.

    Arguments:
        claim: seconds that the claim had at first; twice that where connecting has no limit.
        options: the body's; its retry and policy are over those of the settings.
    """
    connecting = conf["broker_connection_timeout"]
    if connecting is None:
        return 2 * claim
    retry = options.get("retry")
    if retry is None:
        retry = conf["task_publish_retry"]
    policy = {**(conf["task_publish_retry_policy"] or {}), **(options.get("retry_policy") or {})}
    attempts = policy.get("max_retries", _ATTEMPTS) if retry else 0
    if attempts is None:
        attempts = _ATTEMPTS
    pauses = fxrange(
        policy.get("interval_start") or 0,
        policy.get("interval_max") or 0,
        policy.get("interval_step") or 0,
        repeatlast=True,
    )
    # the attempts themselves, the first one, and one more connection for the answer
    seconds: float = (attempts + 2) * connecting + sum(islice(pauses, attempts))
    return math.ceil(seconds)
