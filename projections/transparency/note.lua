-- Note of a log how far it is, so that a place that has less is not taken for it, and what its job met.
-- KEYS  the ledger's meta (hash)
-- ARGV  origin, where it is, size, when a run ended in ms ('' if none did), what is wrong in words ('-' to leave it),
--       of how many sessions it refuses events
-- Gives the origin that is noted: another one is left as it is. Where there is no ledger nothing is written.
local origin, size, partitions = unpack(redis.call('HMGET', KEYS[1], 'proof_origin', 'proof_size', 'partitions'))
if origin and origin ~= ARGV[1] then
  return origin
end
if not partitions then
  return ARGV[1]
end
redis.call('HSET', KEYS[1], 'proof_origin', ARGV[1], 'proof_place', ARGV[2])
if tonumber(ARGV[3]) > tonumber(size or '-1') then
  redis.call('HSET', KEYS[1], 'proof_size', ARGV[3])
end
if ARGV[4] ~= '' then
  redis.call('HSET', KEYS[1], 'proof_at_ms', ARGV[4])
end
if ARGV[5] ~= '-' then
  redis.call('HSET', KEYS[1], 'proof_wrong', ARGV[5], 'proof_refused', ARGV[6])
end
return ARGV[1]
