-- Have a ledger's log be another one than before, which was closed.
-- KEYS  the ledger's meta (hash)
-- ARGV  origin of the log that is closed, origin of the one behind it, where that is
-- Gives the origin that is noted then: neither of both where another one was noted, which is left as it is.
local origin = redis.call('HGET', KEYS[1], 'proof_origin')
if origin == ARGV[1] or not origin then
  redis.call('HSET', KEYS[1], 'proof_origin', ARGV[2], 'proof_place', ARGV[3], 'proof_size', 0)
  redis.call('HDEL', KEYS[1], 'proof_at_ms', 'proof_wrong', 'proof_refused')
  return ARGV[2]
end
return origin
