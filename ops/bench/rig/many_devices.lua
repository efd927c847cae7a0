-- Put devices of one user into a partition, as append.lua leaves them, without events.
-- KEYS  order, sids, activity, devices of the user; then for each device its session and its checkpoints
-- ARGV  user, library, from when on they completed (ms); then the ids of the devices
for at = 4, #ARGV do
  local sid, session, checkpoints = ARGV[at], KEYS[5 + 2 * (at - 4)], KEYS[6 + 2 * (at - 4)]
  local completed = ARGV[3] + tonumber(string.sub(sid, 1, 7), 16) * 8
  redis.call('HSET', session, 'user', ARGV[1], 'library', ARGV[2], 'created_at_us', '1700000000000000',
    'authenticated_by', 'oidc', 'seq', '4', 'at_us', string.format('%.0f', completed * 1000), 'hash', string.sub(sid, 1, 32),
    'head', '1-1', 'device_type', '\1iPhone', 'device_os', '\1iOS', 'app_version', '\0013.3.0',
    'offered', '1577837800000000:400000000000010')
  redis.call('HSET', checkpoints, 'SyncCompleteV1', '1577837800000000|10|' .. string.format('%.0f', completed * 1000),
    'AssetV2', '1577837799003000||' .. string.format('%.0f', completed * 1000))
  redis.call('HSET', KEYS[4], sid, '')
  redis.call('ZADD', KEYS[3], string.format('%.0f', completed + 3600001), sid)
  redis.call('ZADD', KEYS[2], 0, sid)
  redis.call('ZADD', KEYS[1], string.format('%.0f', 2 ^ 43 + completed), sid)
end
