"""Scripts that change and delete records for an operator."""

from __future__ import annotations

_COUNTING = """
local count = 0
local function each(from, act)
  for n = from, #ARGV do
    local r = read(ARGV[n])
    if r and act(r) then count = count + 1 end
  end
  return count
end
"""
_DISCARD = (
    _COUNTING
    + """
return each(4, function(r)
  if not is_free(r, ARGV[1]) then return false end
  change(r, {status = 'discarded', closed = ARGV[1], by = ARGV[2], why = ARGV[3], lane = '', token = '', leased = ''})
  return true
end)
"""
)
_RESTORE = (
    _COUNTING
    + """
return each(3, function(r)
  if not is_closed(r) then return false end
  local before = r.replay
  note(r.id, r.status == 'resolved' and ARGV[1] or ARGV[2])
  change(r, {status = 'dead', replay = '', closed = '', by = '', why = '', due = ''})
  if before then call('HDEL', P .. 'replayed:' .. before, r.id) end
  return true
end)
"""
)
_NOTE = (
    _COUNTING
    + """
return each(2, function(r)
  note(r.id, ARGV[1])
  return true
end)
"""
)

# ARGV: the id and version of the old record, the time, the operator, the reason, two notes, and the new record.
_EDIT = """
local r = read(ARGV[1])
if not r or r.version ~= ARGV[2] or r.status ~= 'dead' then return 0 end
change(r, {status = 'discarded', closed = ARGV[3], by = ARGV[4], why = ARGV[5], lane = '', token = '', leased = ''})
write(8)
note(r.id, ARGV[6])
note(ARGV[8], ARGV[7])
return 1
"""

# Delete records if their version and status allow it. ARGV: the allowed statuses, then pairs of an id and a version.
_DELETE = """
local count, allowed = 0, {}
for status in string.gmatch(ARGV[1], '%a+') do allowed[status] = true end
for n = 2, #ARGV, 2 do
  local r = read(ARGV[n])
  if r and r.version == ARGV[n + 1] and allowed[r.status] then erase(r); count = count + 1 end
end
return count
"""

# Delete closed records. ARGV: the status, the closing time before which they expire, and the limit. Records of a paced
# replay stay, because the replay counts them; the script passes at most ten times the limit of such records.
_EXPIRE = """
local most, count, kept = tonumber(ARGV[3]), 0, 0
while count < most and kept < 10 * most do
  local over = call('ZRANGEBYSCORE', P .. 'closed:' .. ARGV[1], '-inf', '(' .. ARGV[2], 'LIMIT', kept, most - count)
  if #over == 0 then break end
  for _, id in ipairs(over) do
    local r = read(id)
    if r.replay and call('SISMEMBER', P .. 'paced', r.replay) == 1 then
      kept = kept + 1
    else
      erase(r)
      count = count + 1
    end
  end
end
return count
"""

SCRIPTS = {
    "discard": _DISCARD,
    "restore": _RESTORE,
    "note": _NOTE,
    "edit": _EDIT,
    "delete": _DELETE,
    "expire": _EXPIRE,
}
