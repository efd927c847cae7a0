-- Take an entry out of a partition's stream and keep it aside.
-- KEYS  stream, aside (hash)
-- ARGV  stream id, what is kept of it, how many may be kept at most
-- Gives 1; 0 if it is not in the stream; -1 if too many are kept.
if #redis.call('XRANGE', KEYS[1], ARGV[1], ARGV[1]) == 0 then
  return 0
end
if redis.call('HLEN', KEYS[2]) >= tonumber(ARGV[3]) then
  return -1
end
redis.call('HSET', KEYS[2], ARGV[1], ARGV[2])
redis.call('XDEL', KEYS[1], ARGV[1])
return 1
