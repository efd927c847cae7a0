-- Carry out one reading command and tell whether the partition was whole at that instant.
-- KEYS  whole (string), the key to read
-- ARGV  command, its arguments behind the key
-- Gives {1 if it was whole, the reply}.
return {redis.call('GET', KEYS[1]) == '1' and 1 or 0, redis.call(ARGV[1], KEYS[2], unpack(ARGV, 2))}
