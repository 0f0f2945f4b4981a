"""Lua scripts for the operations that only the owner of an entry may perform."""

# The server runs each script atomically. A script changes an entry only if this consumer owns it: a bare XACK or XCLAIM
# would settle or take back an entry that another consumer owns by now. ACK, EXTEND and the script of `release` take the
# group, the consumer, the first id, the last id, and all ids in ascending order, joined by spaces: one argument costs
# less than many. They return the ids of entries that another consumer owns or has acked, and the ids of entries that
# were deleted: entries without an owner that are not in the stream. Since Redis 7, XCLAIM and XAUTOCLAIM remove a
# deleted entry from the pending entries.
_PENDING = """
local pending = redis.call('XPENDING', KEYS[1], ARGV[1], ARGV[3], ARGV[4], 20000, ARGV[2])
"""
_OWNED = """
local owned = {}
for _, entry in ipairs(pending) do owned[entry[1]] = entry[4] end
local ours, lost, gone = {}, {}, {}
local function exists(id) return #redis.call('XRANGE', KEYS[1], id, id) > 0 end
for id in string.gmatch(ARGV[5], '%S+') do
  if owned[id] then
    ours[#ours + 1] = id
  elseif #redis.call('XPENDING', KEYS[1], ARGV[1], id, id, 1) > 0 or exists(id) then
    lost[#lost + 1] = id
  else
    gone[#gone + 1] = id
  end
end
"""
# Nearly always, the acked ids are exactly the pending ids of the range, at most a thousand: compare both as one text.
ACK = f"""{_PENDING}
if #pending <= 1000 then
  local ids = {{}}
  for at, entry in ipairs(pending) do ids[at] = entry[1] end
  if table.concat(ids, ' ') == ARGV[5] then
    redis.call('XACK', KEYS[1], ARGV[1], unpack(ids))
    return {{}}
  end
end
{_OWNED}
if #ours > 0 then redis.call('XACK', KEYS[1], ARGV[1], unpack(ours)) end
return {{lost, gone}}
"""
EXTEND = f"""{_PENDING}{_OWNED}
if #ours > 0 then
  local command = {{'XCLAIM', KEYS[1], ARGV[1], ARGV[2], 0}}
  for _, id in ipairs(ours) do command[#command + 1] = id end
  command[#command + 1] = 'JUSTID'
  local claimed = redis.call(unpack(command))
  if #claimed < #ours then
    local kept = {{}}
    for _, id in ipairs(claimed) do kept[id] = true end
    for _, id in ipairs(ours) do if not kept[id] then gone[#gone + 1] = id end end
  end
end
return {{lost, gone}}
"""
_RELEASE = """
for _, id in ipairs(ours) do
  if exists(id) then
    redis.call('XCLAIM', KEYS[1], ARGV[1], ARGV[2], 0, id, 'IDLE', {idle}, 'RETRYCOUNT', owned[id] - 1, 'JUSTID')
  else
    redis.call('XACK', KEYS[1], ARGV[1], id)
    gone[#gone + 1] = id
  end
end
return {{lost, gone}}
"""
# Returns the next cursor, the entries with their delivery counts, and the ids of deleted entries.
TAKE_OVER = """
local reply = redis.call('XAUTOCLAIM', KEYS[1], ARGV[1], ARGV[2], ARGV[3], ARGV[4], 'COUNT', ARGV[5])
local entries, deleted = {}, reply[3] or {}
for _, entry in ipairs(reply[2]) do
  if entry and entry[2] then
    local pending = redis.call('XPENDING', KEYS[1], ARGV[1], entry[1], entry[1], 1)
    entries[#entries + 1] = {entry[1], entry[2], pending[1] and pending[1][4] or 1}
  else
    deleted[#deleted + 1] = entry and entry[1] or ''
    if entry then redis.call('XACK', KEYS[1], ARGV[1], entry[1]) end
  end
end
return {reply[1], entries, deleted}
"""
# Returns the number of pending entries, at most 1; the consumer leaves the group if there are none.
LEAVE = """
local pending = redis.call('XPENDING', KEYS[1], ARGV[1], '-', '+', 1, ARGV[2])
if #pending == 0 then redis.call('XGROUP', 'DELCONSUMER', KEYS[1], ARGV[1], ARGV[2]) end
return #pending
"""


def release(idle: int) -> str:
    """Return the script that makes entries free for consumers that take over entries after `idle` milliseconds."""
    return _PENDING + _OWNED + _RELEASE.format(idle=idle)
