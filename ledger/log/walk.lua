-- Walk a session's events backwards along `prev`, jumping along `skip` to where the page begins.
-- KEYS  stream, session hash, ended (hash)
-- ARGV  session id (hex), highest seq wanted, latest time wanted (µs), how many at most
-- Gives {} if there is no such session, else {entries, 1 if older events are not in the stream any more}, newest first.
local head, jump = unpack(redis.call('HMGET', KEYS[2], 'head', 'skip'))
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
  local reply = redis.call('XRANGE', KEYS[1], id, id, 'COUNT', 1)[1]
  if not reply then
    return nil
  end
  local values = reply[2]
  local too_new = tonumber(values[4]) > top_seq or tonumber(values[6]) > top_at
  return {reply = reply, too_new = too_new, prev = values[14], skip = values[16]}
end

local entry = read(head)
if entry then
  entry.skip = entry.skip or jump
end
while entry and entry.too_new do
  local far = entry.skip and entry.skip ~= '' and read(entry.skip)
  if far and far.too_new then
    entry = far
  elseif entry.prev == '' then
    return {{}, 0}
  else
    entry = read(entry.prev)
  end
end

local page = {}
while entry and #page < count do
  page[#page + 1] = entry.reply
  if entry.prev == '' then
    return {page, 0}
  end
  if #page < count then
    entry = read(entry.prev)
  end
end
return {page, entry and 0 or 1}
