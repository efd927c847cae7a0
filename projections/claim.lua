-- Claim a job for one of many workers: only who finds it due runs it.
-- KEYS  the ledger's meta (hash)
-- ARGV  field of the job, now in ms, how many ms after its last claim it is due
-- Gives 1 to the one who may run it now. A claim of a clock that was ahead holds nobody up, and nothing is written where
-- there is no ledger, or one is being restored.
local last, now, every = redis.call('HGET', KEYS[1], ARGV[1]), tonumber(ARGV[2]), tonumber(ARGV[3])
if last and last + every > now and last - every <= now then
  return 0
end
if redis.call('HEXISTS', KEYS[1], 'partitions') == 0 or redis.call('HEXISTS', KEYS[1], 'restoring') == 1 then
  return 0
end
redis.call('HSET', KEYS[1], ARGV[1], ARGV[2])
return 1
