-- Walk a session's events backwards along `prev`, jumping along its marks (ledger/log/skips.py) to where the page begins.
-- KEYS  stream, session hash, ended (hash), archive (hash)
-- ARGV  session id (hex), highest seq wanted, latest time wanted (µs), how many at most
-- Gives {} if there is no such session, else {entries newest first, how the page ends, where}. It ends with 0 at the
-- session's first event or because it is full, 1 at the archive's floor (what is older lies in segments only), 2 at an
-- event that is missing although it was never archived, 3 at an entry that is none of an event.
-- An entry is nine replies: stream id, sid, seq, at, schema, event, hash, prev, and skip or nil.
-- PERF: reading an entry costs what its strings cost, so none is read to learn what its place already tells.
local call, stream = redis.call, KEYS[1]
local head, marks = unpack(call('HMGET', KEYS[2], 'head', 'skip'))
if not head then
  local kept = call('HGET', KEYS[3], ARGV[1])
  if not kept then
    return {}
  end
  head = string.match(kept, '^[^ ]+')
end
local top_seq, top_at, count = tonumber(ARGV[2]), tonumber(ARGV[3]), tonumber(ARGV[4])
local surely_wanted = top_at < 2 ^ 53 and 0 or top_seq -- up to this seq no event is too new

-- Tell how a page ends at an event that is not in the stream.
local function missing(id)
  local floor = call('HGET', KEYS[4], 'floor')
  if not floor then
    return 2
  end
  local floor_ms, floor_seq = string.match(floor, '^(%d+)-(%d+)$')
  local ms, seq = string.match(id, '^(%d+)-(%d+)$')
  floor_ms, floor_seq, ms, seq = tonumber(floor_ms), tonumber(floor_seq), tonumber(ms), tonumber(seq)
  return (ms < floor_ms or (ms == floor_ms and seq <= floor_seq)) and 1 or 2
end

-- The values of an entry lie where append.lua put them: sid, seq, at, schema, event, hash, prev, skip at 2, 4, 6 … 16.
local odd = false -- an entry that is none of append.lua's
local function read(id)
  local found = call('XRANGE', stream, id, id)[1]
  if not found then
    return nil
  end
  local values = found[2]
  if values[3] ~= 'seq' or values[5] ~= 'at' or values[13] ~= 'prev' then
    odd = id
    return nil
  end
  return values
end

local function too_new(values)
  return tonumber(values[4]) > top_seq or tonumber(values[6]) > top_at
end

local spans = {16, 128, 1024}
local passed = {} -- marks that are not too new: the page begins between them and here
local lost = false -- a mark that is missing although it was never archived

-- Find the furthest of an event's marks of one span that is still too new; nil if none is. The n-th of them is at most
-- n spans before the event.
local function furthest(pointers, span, seq, sid)
  local ids, last = {}, math.floor((seq - 1) / span) * span
  for id in string.gmatch(pointers, '[^,]+') do
    if last - #ids * span <= surely_wanted then
      break
    end
    ids[#ids + 1] = id
  end
  local low, high, try, best, best_values = 1, #ids, #ids, nil, nil
  while low <= high do
    local id = ids[try]
    local values = not passed[id] and read(id)
    if values and values[2] == sid and too_new(values) then
      best, best_values, low = id, values, try + 1
    else
      lost = lost or (values == nil and not odd and missing(id) == 2 and id)
      passed[id], high = true, try - 1
    end
    try = math.floor((low + high + 1) / 2)
  end
  return best, best_values
end

-- Split pointers by span, nearest first.
local function split(pointers)
  return {string.match(pointers or '', '^(%S*) ?(%S*) ?(%S*)$')}
end

local id, values = head, read(head)
local pointers = split(marks)
for level, own in ipairs(split(values and values[16])) do
  if pointers[level] == '' or pointers[level] == id then
    pointers[level] = own -- the head is the last mark itself, or no marks are kept because the session ended
  end
end
while values and too_new(values) do
  local target, found
  local seq, sid = tonumber(values[4]), values[2]
  if seq - 1 > surely_wanted then
    for level = #pointers, 1, -1 do
      if not target then
        target, found = furthest(pointers[level], spans[level], seq, sid)
      end
    end
    if odd or lost then
      return {{}, odd and 3 or 2, odd or lost}
    end
  end
  if target then
    id, values = target, found
  else
    id = values[14]
    if id == '' then
      return {{}, 0, ''}
    end
    values = read(id)
  end
  pointers = values and values[16] and split(values[16]) or {}
end

local page, at, size = {}, 0, 9 * count
while values do
  page[at + 1], page[at + 2], page[at + 3], page[at + 4] = id, values[2], values[4], values[6]
  page[at + 5], page[at + 6], page[at + 7] = values[8], values[10], values[12]
  page[at + 8], page[at + 9] = values[14], values[16] or false
  at, id = at + 9, values[14]
  if id == '' or at >= size then
    return {page, 0, id}
  end
  values = read(id)
end
return {page, odd and 3 or missing(id), id}
