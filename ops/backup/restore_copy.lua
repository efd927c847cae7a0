-- Append a stream's entries under their own ids, if they follow what was restored before.
-- KEYS  stream, whole (string)
-- ARGV  what the partition says while its events are restored, id of the last one there ('' for none), then per entry:
--       id, how many arguments follow, its fields and values
-- Gives {1}; with nothing written {0} if the partition is not being restored, {2} if its last entry is another one.
if redis.call('GET', KEYS[2]) ~= ARGV[1] then
  return {0}
end
local last = redis.call('XREVRANGE', KEYS[1], '+', '-', 'COUNT', 1)[1]
if (last and last[1] or '') ~= ARGV[2] then
  return {2}
end
local at = 3
while at <= #ARGV do
  local fields = at + 2
  at = fields + ARGV[at + 1]
  redis.call('XADD', KEYS[1], ARGV[fields - 2], unpack(ARGV, fields, at - 1))
end
return {1}
