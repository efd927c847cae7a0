-- Take a link of the console: whoever is first gets it, and nobody after.
-- KEYS  the hash of links
-- ARGV  by what it is found
-- Gives what was kept, or nothing.
local kept = redis.call('HGET', KEYS[1], ARGV[1])
if kept then
  redis.call('HDEL', KEYS[1], ARGV[1])
end
return kept
