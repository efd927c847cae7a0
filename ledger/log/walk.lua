-- Walk a session's events backwards along `prev`, jumping along its marks (ledger/log/skips.py) to where the page begins.
-- KEYS  stream, session hash, ended (hash), archive (hash)
-- ARGV  session id (hex), highest seq wanted, latest time wanted (µs), how many at most
-- Gives {} if there is no such session, else {entries newest first, how the page ends, where}. It ends with 0 at the
-- session's first event or because it is full, 1 at the archive's floor (what is older lies in segments only), 2 at an
-- event that is missing although it was never archived.
local head, marks = unpack(redis.call('HMGET', KEYS[2], 'head', 'skip'))
if not head then
  local kept = redis.call('HGET', KEYS[3], ARGV[1])
  if not kept then
    return {}
  end
  head = string.match(kept, '^[^ ]+')
end
local top_seq, top_at, count = tonumber(ARGV[2]), tonumber(ARGV[3]), tonumber(ARGV[4])

-- The values of an entry lie where append.lua put them: sid, seq, at, schema, event, hash, prev, skip at 2, 4, 6 … 16.
local function read(id)
  local reply = redis.call('XRANGE', KEYS[1], id, id)[1]
  if not reply then
    return nil
  end
  local values = reply[2]
  local too_new = tonumber(values[4]) > top_seq or tonumber(values[6]) > top_at
  return {reply = reply, too_new = too_new, prev = values[14], skip = values[16]}
end

-- Tell how a page ends at an event that is not in the stream.
local function missing(id)
  local floor = redis.call('HGET', KEYS[4], 'floor')
  if not floor then
    return 2
  end
  local floor_ms, floor_seq = string.match(floor, '^(%d+)-(%d+)$')
  local ms, seq = string.match(id, '^(%d+)-(%d+)$')
  floor_ms, floor_seq, ms, seq = tonumber(floor_ms), tonumber(floor_seq), tonumber(ms), tonumber(seq)
  return (ms < floor_ms or (ms == floor_ms and seq <= floor_seq)) and 1 or 2
end

local id, entry = head, read(head)
if entry then
  entry.skip = entry.skip or marks
end
local passed = {} -- marks that are not too new: the page begins between them and here
while entry and entry.too_new do
  local near, middle, far = string.match(entry.skip or '', '^(%S*) ?(%S*) ?(%S*)$')
  local target
  for _, mark in ipairs({far, middle, near}) do
    if not target and mark ~= '' and not passed[mark] then
      local found = read(mark)
      if found and found.too_new then
        id, target = mark, found
      elseif not found and missing(mark) == 2 then
        return {{}, 2, mark}
      else
        passed[mark] = true
      end
    end
  end
  if target then
    entry = target
  elseif entry.prev == '' then
    return {{}, 0, ''}
  else
    id, entry = entry.prev, read(entry.prev)
  end
end

local page = {}
while entry and #page < count do
  page[#page + 1] = entry.reply
  id = entry.prev
  if id == '' then
    return {page, 0, ''}
  end
  if #page < count then
    entry = read(id)
  end
end
return {page, entry and 0 or missing(id), id}
