-- Begin a restore in an empty store, or go on with the same one.
-- KEYS  the ledger's meta (hash)
-- ARGV  what is restored, then fields and values a ledger begins with
-- Gives 1, or 0 with nothing written if a ledger is there, or something else is being restored.
-- Until the restore is over the ledger has format 0, which nobody opens.
local restoring = redis.call('HGET', KEYS[1], 'restoring')
if restoring then
  return restoring == ARGV[1] and 1 or 0
end
if redis.call('HEXISTS', KEYS[1], 'partitions') == 1 then
  return 0
end
redis.call('HSET', KEYS[1], 'restoring', ARGV[1], 'format', 0, unpack(ARGV, 2))
return 1
