-- Record that a partition is archived further, or that retention removed more of it.
-- KEYS  archive (hash), ended (hash)
-- ARGV  token, the floor this follows, number of fields and values, these, then sessions that ended before the cut
-- Gives 1, or 0 with nothing written if somebody else took the partition over, or its floor is another.
local token, floor = unpack(redis.call('HMGET', KEYS[1], 'token', 'floor'))
redis.call('HLEN', KEYS[2])
if token ~= ARGV[1] or (floor or '') ~= ARGV[2] then
  return 0
end
local last = 3 + ARGV[3]
redis.call('HSET', KEYS[1], unpack(ARGV, 4, last))
if #ARGV > last then
  redis.call('HDEL', KEYS[2], unpack(ARGV, last + 1))
end
return 1
