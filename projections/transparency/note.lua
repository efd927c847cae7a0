-- Note of a log how far it is, so that a place that has less is not taken for it.
-- KEYS  the ledger's meta (hash)
-- ARGV  origin, where it is, size, when the run ended in ms ('' if it has not), what is wrong in words
-- Gives the origin that is noted: another one is left as it is.
local origin, size = unpack(redis.call('HMGET', KEYS[1], 'proof_origin', 'proof_size'))
if origin and origin ~= ARGV[1] then
  return origin
end
redis.call('HSET', KEYS[1], 'proof_origin', ARGV[1], 'proof_place', ARGV[2])
if tonumber(ARGV[3]) > tonumber(size or '-1') then
  redis.call('HSET', KEYS[1], 'proof_size', ARGV[3])
end
if ARGV[4] ~= '' then
  redis.call('HSET', KEYS[1], 'proof_at_ms', ARGV[4], 'proof_wrong', ARGV[5])
end
return ARGV[1]
