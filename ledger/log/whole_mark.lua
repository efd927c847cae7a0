-- Say of a partition that it is whole where nothing was said of it, and that its index of devices is where it is empty.
-- KEYS  whole (string), sids (sorted set), stream, activity (sorted set), ended (hash)
-- ARGV  the member of sids that says so
if redis.call('SET', KEYS[1], '1', 'NX') and redis.call('EXISTS', KEYS[3], KEYS[4], KEYS[5]) == 0 then
  redis.call('ZADD', KEYS[2], 0, ARGV[1])
end
