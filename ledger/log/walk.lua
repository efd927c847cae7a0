-- Walk a session's events backwards along `prev`, from the mark (append.lua) that is next to where the page begins.
-- KEYS  stream, session hash, ended (hash), archive (hash), marks of the session (list)
-- ARGV  session id (hex), highest seq wanted, latest time wanted (µs), how many at most, every how many events is a mark,
--         at how many bytes of events the page ends although more were wanted
-- Gives {} if there is no such session, else {entries newest first, how the page ends, where}. It ends with 0 at the
-- session's first event or because it is full, 1 at the archive's floor (what is older lies in segments only), 2 at an
-- event that is missing although it was never archived, 3 at an entry that is no event, 4 where the page is too
-- far from any mark, 5 because it has enough bytes.
-- An entry is eight replies: stream id, sid, seq, at, schema, event, hash, prev.
-- PERF: reading an entry costs what its strings cost, so none is read to learn what its place already tells.
local call, stream, marks = redis.call, KEYS[1], KEYS[5]
local head = call('HGET', KEYS[2], 'head')
if not head then
  local kept = call('HGET', KEYS[3], ARGV[1])
  if not kept then
    return {}
  end
  head = string.match(kept, '^[^ ]+')
end
local top_seq, top_at, count, every = tonumber(ARGV[2]), tonumber(ARGV[3]), tonumber(ARGV[4]), tonumber(ARGV[5])
local any_time = top_at >= 2 ^ 53
local furthest = 32 * every -- events that are gone along one by one, where marks are missing

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

-- The values of an entry lie where append.lua put them: sid, seq, at, schema, event, hash, prev at 2, 4, 6 … 14.
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

local id, values = head, read(head)
if values and too_new(values) then
  -- Mark m is the first event of seq m * every or more (more only behind a hole); the last of the list is the newest,
  -- so any may be missing at its beginning.
  -- Marks before `low` are not too new, or archived; those from `high` on are too new.
  local newest, sid = math.floor(tonumber(values[4]) / every), values[2]
  local low, high = newest + 1 - call('LLEN', marks), newest + 1
  local by_seq = math.floor(top_seq / every) + 1 -- the first mark that its seq makes too new
  if any_time and by_seq > low then
    low = math.min(by_seq, high)
  end
  local try = math.max(low, math.min(by_seq, newest))
  while low < high do
    local mark = call('LINDEX', marks, try - newest - 1)
    local found = mark and read(mark)
    if odd or (mark and not found and missing(mark) == 2) then
      return {{}, odd and 3 or 2, odd or mark}
    end
    if found and found[2] == sid and tonumber(found[4]) >= try * every and too_new(found) then
      id, values, high = mark, found, try
    else
      low = try + 1
    end
    try = math.floor((low + high) / 2)
  end
end
local far = 0
while values and too_new(values) do
  id, far = values[14], far + 1
  if id == '' then
    return {{}, 0, ''}
  elseif far > furthest then
    return {{}, missing(id) == 1 and 1 or 4, id}
  end
  values = read(id)
end

local page, at, size, bytes, most = {}, 0, 8 * count, 0, tonumber(ARGV[6])
while values do
  page[at + 1], page[at + 2], page[at + 3], page[at + 4] = id, values[2], values[4], values[6]
  page[at + 5], page[at + 6], page[at + 7], page[at + 8] = values[8], values[10], values[12], values[14]
  at, id, bytes = at + 8, values[14], bytes + #values[10]
  if id == '' or at >= size then
    return {page, 0, id}
  elseif bytes >= most then
    return {page, 5, id}
  end
  values = read(id)
end
return {page, odd and 3 or missing(id), id}
