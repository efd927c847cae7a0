-- End a restore: from now on the ledger may be opened.
-- KEYS  the ledger's meta (hash)
-- ARGV  what was restored, the format, the ledger's id if nothing that was restored says it
-- Gives 1, or 0 if it is not being restored.
if redis.call('HGET', KEYS[1], 'restoring') ~= ARGV[1] then
  return 0
end
redis.call('HDEL', KEYS[1], 'restoring')
redis.call('HSET', KEYS[1], 'format', ARGV[2])
redis.call('HSETNX', KEYS[1], 'id', ARGV[3])
return 1
