"""Scripts for orphans, assigned handlers, stuck lanes, and the applications of a store."""

from __future__ import annotations

# End leases that the token ARGV[1] still holds. ARGV: the token, the new due time, the time, the ids. Returns the ids.
_ORPHANS = """
local ours = {}
for n = 4, #ARGV do
  local r, key = read(ARGV[n]), P .. 'r:' .. ARGV[n]
  if r and r.token == ARGV[1] then
    call('HDEL', key, 'token', 'leased')
    call('HSETNX', key, 'orphaned', ARGV[3])
    call('HSET', key, 'due', ARGV[2])
    call('HINCRBY', key, 'rev', 1)
    r = read(r.id)
    if waits(r) and is_first(r) then offer(r) end
    ours[#ours + 1] = r.id
  end
end
return ours
"""

_WAITS_FREE = """
local function waits_free(r, now) return waits(r) and tonumber(r.leased or '0') <= tonumber(now) end
"""

# ARGV: the id, the handler, the time, the note.
_REROUTE = (
    _WAITS_FREE
    + """
local r = read(ARGV[1])
if not r or not (r.status == 'dead' or waits_free(r, ARGV[3])) then return 0 end
local changes = {assigned = ARGV[2]}
if call('HEXISTS', P .. 'r:' .. r.id, 'orphaned') == 1 then changes.due = ''; changes.orphaned = '' end
change(r, changes)
note(r.id, ARGV[4])
return 1
"""
)

# ARGV: the id, the time, the notes for a queued and for a parked record.
_UNSTICK = (
    _WAITS_FREE
    + """
local r = read(ARGV[1])
if not r or not waits_free(r, ARGV[2]) or not is_first(r) then return 0 end
local before = r.replay
note(r.id, r.status == 'queued' and ARGV[3] or ARGV[4])
change(r, {status = 'dead', lane = '', due = '', replay = '', orphaned = '', token = '', leased = ''})
if before then call('HDEL', P .. 'replayed:' .. before, r.id) end
return 1
"""
)

# ARGV: the service, the target or '', and 1 for an explicit name. Returns the applications before.
_REGISTER = """
local key = P .. 'applications'
local before, alone = call('HGETALL', key), true
for n = 1, #before, 2 do
  if before[n] ~= ARGV[1] or before[n + 1] ~= ARGV[2] then alone = false end
end
if ARGV[2] == '' or alone then call('HSET', key, ARGV[1], ARGV[2]) end
return before
"""

# Move records to another service if they have not changed. ARGV: the number of records. For each record: its `rev`, its
# arrival under the old service, its lease token and the end of its lease, and the record. Returns the number moved.
_ADOPT = """
local count, width, moved = tonumber(ARGV[1]), WIDTH + 4, 0
for n = 0, count - 1 do
  local at = 2 + n * width
  local id = ARGV[at + 4]
  local key = P .. 'r:' .. id
  if call('HGET', key, 'rev') == ARGV[at] then
    local r = write(at + 4)
    if ARGV[at + 2] ~= '' then
      call('HSET', key, 'token', ARGV[at + 2], 'leased', ARGV[at + 3])
      r = read(id)
      if waits(r) and is_first(r) then offer(r) end
    end
    if call('HGET', P .. 'arrivals', ARGV[at + 1]) == id then
      call('HDEL', P .. 'arrivals', ARGV[at + 1])
      call('HSETNX', P .. 'arrivals', r.arrival, id)
    end
    moved = moved + 1
  end
end
return moved
"""

# Move attempts and checkpoints. ARGV: digests of the old and the new service, then pairs of digests of checkpoints.
_ADOPT_STATE = """
local old, new = P .. 'attempts:' .. ARGV[1], P .. 'attempts:' .. ARGV[2]
local all = call('HGETALL', old)
for n = 1, #all, 2 do
  local there = call('HGET', new, all[n])
  if not there or tonumber(there) < tonumber(all[n + 1]) then call('HSET', new, all[n], all[n + 1]) end
end
call('DEL', old)
local marks = P .. 'checkpoints'
for n = 3, #ARGV, 2 do
  local mark = call('HGET', marks, ARGV[n])
  if mark then call('HSETNX', marks, ARGV[n + 1], mark); call('HDEL', marks, ARGV[n]) end
end
local sources, of = P .. 'sources:' .. ARGV[1], P .. 'sources:' .. ARGV[2]
all = call('HGETALL', sources)
for n = 1, #all, 2 do call('HSETNX', of, all[n], all[n + 1]) end
call('DEL', sources)
return 1
"""

# Move claims of an adopted service, when they are asked for. ARGV: pairs of the old and the new digest.
_ADOPT_CLAIMS = """
for n = 1, #ARGV, 2 do
  local old, new = P .. 'once:' .. ARGV[n], P .. 'once:' .. ARGV[n + 1]
  if call('EXISTS', old) == 1 and call('EXISTS', new) == 0 then
    local expiry = call('ZSCORE', P .. 'once', ARGV[n])
    call('RENAME', old, new)
    call('ZREM', P .. 'once', ARGV[n])
    if expiry then call('ZADD', P .. 'once', expiry, ARGV[n + 1]) end
  end
end
return 1
"""

SCRIPTS = {
    "orphans": _ORPHANS,
    "reroute": _REROUTE,
    "unstick": _UNSTICK,
    "register": _REGISTER,
    "adopt": _ADOPT,
    "adopt_state": _ADOPT_STATE,
    "adopt_claims": _ADOPT_CLAIMS,
}
