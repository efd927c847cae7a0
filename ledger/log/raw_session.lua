-- Read all that is stored of a session at one instant. A missing value is a nil, and ends a Lua list: hence the false.
-- KEYS  session hash, checkpoint hash, ended (hash), activity (sorted set), devices of the user (hash),
--         provider sessions (sorted set), credentials (hash), marks (list), archive (hash), due
--         (sorted set), order (sorted set), sids (sorted set), sent (list)
-- ARGV  session id (hex), its member of the provider sessions, the member of sids that tells that all are there
return {
  redis.call('HGETALL', KEYS[1]), redis.call('HGETALL', KEYS[2]), redis.call('HGET', KEYS[3], ARGV[1]) or false,
  redis.call('ZSCORE', KEYS[4], ARGV[1]) or false, redis.call('HGET', KEYS[5], ARGV[1]) or false,
  redis.call('ZSCORE', KEYS[6], ARGV[2]) or false, redis.call('HEXISTS', KEYS[7], ARGV[1]),
  redis.call('LRANGE', KEYS[8], 0, -1), redis.call('HGET', KEYS[9], 'floor') or false,
  redis.call('ZSCORE', KEYS[10], ARGV[1]) or false, redis.call('ZSCORE', KEYS[11], ARGV[1]) or false,
  redis.call('ZSCORE', KEYS[12], ARGV[1]) or false, redis.call('ZSCORE', KEYS[12], ARGV[3]) or false,
  redis.call('LRANGE', KEYS[13], 0, -1),
}
