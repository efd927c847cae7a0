-- Remove some archived events from a partition's stream: whole nodes first, as many as `most` events.
-- KEYS  archive (hash), stream
-- ARGV  token, the first stream id to stay, most
-- Gives how many were removed, at the end none; -1 if somebody else took the partition over, or the floor is lower.
local token, floor = unpack(redis.call('HMGET', KEYS[1], 'token', 'floor'))
local floor_ms, floor_seq = string.match(floor or '', '^(%d+)-(%d+)$')
if token ~= ARGV[1] or not floor_ms or ARGV[2] ~= string.format('%s-%.0f', floor_ms, floor_seq + 1) then
  return -1
end
local removed = redis.call('XTRIM', KEYS[2], 'MINID', '~', ARGV[2], 'LIMIT', ARGV[3])
if removed == 0 then
  removed = redis.call('XTRIM', KEYS[2], 'MINID', ARGV[2])
end
return removed
