-- Record that a partition is archived further, or that retention removed more of it.
-- KEYS  archive (hash), ended (hash), sids (sorted set), then of sessions that ended before the cut what was sent to them (lists)
-- ARGV  token, the floor this follows, number of fields and values, these, then those sessions
-- Gives 1, or 0 with nothing written if somebody else took the partition over, or its floor is another.
local token, floor = unpack(redis.call('HMGET', KEYS[1], 'token', 'floor'))
redis.call('HLEN', KEYS[2])
redis.call('ZCARD', KEYS[3])
if token ~= ARGV[1] or (floor or '') ~= ARGV[2] then
  return 0
end
local last = 3 + ARGV[3]
redis.call('HSET', KEYS[1], unpack(ARGV, 4, last))
for i = 4, #KEYS do
  if redis.call('HDEL', KEYS[2], ARGV[last + i - 3]) == 1 then -- not of one that was resumed since
    redis.call('DEL', KEYS[i])
    redis.call('ZREM', KEYS[3], ARGV[last + i - 3])
  end
end
return 1
