-- Find the sessions of a partition whose ids begin in one way.
-- KEYS  sids (sorted set), activity (sorted set), whole (string)
-- ARGV  from where on, up to where (as ZRANGEBYLEX takes them), how many at most, the member that tells that all are there
-- Gives how it is with the partition: 0 all are there, 1 not all are in the index yet, 2 it is not whole; then ids, each
--         with 1 if it lives, else 0.
local call = redis.call
local is_whole, is_filled = call('GET', KEYS[3]) == '1', call('ZSCORE', KEYS[1], ARGV[4])
local state = not is_whole and 2 or is_filled and 0 or 1
if not is_filled then
  return {state}
end
local found = {state}
for _, sid in ipairs(call('ZRANGEBYLEX', KEYS[1], ARGV[1], ARGV[2], 'LIMIT', 0, ARGV[3])) do
  found[#found + 1] = sid
  found[#found + 1] = call('ZSCORE', KEYS[2], sid) and 1 or 0
end
return found
