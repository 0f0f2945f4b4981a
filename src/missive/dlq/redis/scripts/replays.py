"""Scripts that start, advance and end replays."""

from __future__ import annotations

# Assign records to a replay. The last step stores the replay. ARGV: the replay, the time, '1' for the last step, the
# number of records of earlier steps, the number of arguments for fields, the fields, and the ids.
_START_REPLAY = """
local replay, now, total, from = ARGV[1], ARGV[2], tonumber(ARGV[4]), 6 + tonumber(ARGV[5])
for n = from, #ARGV do
  local r = read(ARGV[n])
  if r and is_free(r, now) then
    local before = r.replay
    call('HSET', P .. 'replayed:' .. replay, r.id, r.attempts)
    change(r, {status = 'dead', replay = replay, token = '', leased = ''})
    if before and before ~= replay then call('HDEL', P .. 'replayed:' .. before, r.id) end
    total = total + 1
  end
end
if ARGV[3] == '1' then
  call('ZADD', P .. 'replays', 0, replay)
  set_replay(replay, {'total', tostring(total), 'created_at', now, unpack(ARGV, 6, from - 1)})
end
return total
"""
_QUEUE_REMAINING = """
if call('HGET', P .. 'replay:' .. ARGV[1], 'status') ~= 'running' then return 0 end
return queue_left(ARGV[1], tonumber(ARGV[2]))
"""
_UNQUEUE = "return unqueue(ARGV[1], ARGV[2], tonumber(ARGV[3]))"
# ARGV: the replay, the time, and the changed fields.
_SET_REPLAY = """
if call('EXISTS', P .. 'replay:' .. ARGV[1]) == 0 then return 0 end
set_replay(ARGV[1], {unpack(ARGV, 3)})
if call('HGET', P .. 'replay:' .. ARGV[1], 'status') ~= 'running' then unqueue(ARGV[1], ARGV[2], 0) end
for _, id in ipairs(call('ZRANGE', P .. 'of:' .. ARGV[1] .. ':queued', 0, -1)) do
  local r = read(id)
  if is_first(r) then offer(r) end
end
return 1
"""

# Take a step of a replay unless the replay has changed since the step was computed. ARGV: the replay, its `rev`, its
# five counts, the time, the number of records to queue, and the changed fields.
_STEP = """
local replay = ARGV[1]
if call('HGET', P .. 'replay:' .. replay, 'rev') ~= ARGV[2] then return 0 end
local counts = call('HMGET', P .. 'counts:' .. replay, 'queued', 'resolved', 'discarded', 'failed', 'left')
for n = 1, 5 do if (counts[n] or '0') ~= ARGV[2 + n] then return 0 end end
set_replay(replay, {unpack(ARGV, 10)})
if call('HGET', P .. 'replay:' .. replay, 'status') ~= 'running' then
  unqueue(replay, ARGV[8], 0)
else
  queue_left(replay, tonumber(ARGV[9]))
end
return 1
"""

SCRIPTS = {
    "start_replay": _START_REPLAY,
    "queue_remaining": _QUEUE_REMAINING,
    "unqueue": _UNQUEUE,
    "set_replay": _SET_REPLAY,
    "step": _STEP,
}
