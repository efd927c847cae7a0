-- Claim a job for one of many workers: only who finds it due runs it.
-- KEYS  the ledger's meta (hash)
-- ARGV  field of the job, now in ms, how many ms after its last claim it is due
-- Gives 1 to the one who may run it now.
local last = redis.call('HGET', KEYS[1], ARGV[1])
if last and tonumber(last) + tonumber(ARGV[3]) > tonumber(ARGV[2]) then
  return 0
end
redis.call('HSET', KEYS[1], ARGV[1], ARGV[2])
return 1
