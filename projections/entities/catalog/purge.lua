-- Forgets old delete markers of one entity type, or which rows changed their checksum long ago, and raises the tombstone
-- floor: a device that knows nothing of that time must start over.
--
-- KEYS  meta, rows of the markers, ids of their form, then the ids of the forms that go with its rows; or meta, checksums
-- ARGV  upper bound of the stamps (exclusive), most rows
--
-- Returns how many were forgotten.

local lines = redis.call('ZRANGEBYSCORE', KEYS[2], '-inf', '(' .. ARGV[1], 'WITHSCORES', 'LIMIT', 0, tonumber(ARGV[2]))
local count = #lines / 2
if count == 0 then return 0 end
local newest = tonumber(lines[#lines])
local floor = tonumber(redis.call('HGET', KEYS[1], 'floor') or 0)
if newest > floor then redis.call('HSET', KEYS[1], 'floor', string.format('%.0f', newest)) end
for at = 1, KEYS[3] and #lines or 0, 2 do
  local id = cjson.decode('"' .. string.match(lines[at], '|([^|]*)$') .. '"')
  local stamp = string.format('%.0f', tonumber(lines[at + 1]))
  if redis.call('HGET', KEYS[3], id) == 'd' .. stamp then redis.call('HDEL', KEYS[3], id) end
  for key = 4, #KEYS do
    local entry = redis.call('HGET', KEYS[key], id)
    if entry and string.sub(entry, 1, 1) == 'r' and tonumber(string.sub(entry, 2)) <= newest then redis.call('HDEL', KEYS[key], id) end
  end
end
redis.call('ZREMRANGEBYSCORE', KEYS[2], '-inf', string.format('%.0f', newest))
return count
