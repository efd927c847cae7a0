-- Read some members of one of a partition's indexes beyond a place in it.
-- KEYS  the index (sorted set), whole (string), sids (sorted set)
-- ARGV  '1' from the highest score down, '0' from the lowest up; the score and the member that they come behind ('' for
--         the beginning), how many, the member of sids that tells that all are there
-- Gives how it is with the partition: 0 all are there, 1 not all are in the index yet, 2 it is not whole; then members and
--         scores.
local call, name, down = redis.call, KEYS[1], ARGV[1] == '1'
local state = call('GET', KEYS[2]) ~= '1' and 2 or call('ZSCORE', KEYS[3], ARGV[5]) and 0 or 1
local from = 0
local function at(rank)
  return down and call('ZRANGE', name, rank, rank, 'REV')[1] or call('ZRANGE', name, rank, rank)[1]
end
if ARGV[2] ~= '' then
  local before, same = call('ZCOUNT', name, '-inf', '(' .. ARGV[2]), call('ZCOUNT', name, ARGV[2], ARGV[2])
  from = down and call('ZCARD', name) - before - same or before
  local low, high = from, from + same -- of those with the same score, the first behind the member
  while low < high do
    local middle = math.floor((low + high) / 2)
    local member = at(middle)
    if (down and member >= ARGV[3]) or (not down and member <= ARGV[3]) then
      low = middle + 1
    else
      high = middle
    end
  end
  from = low
end
local to = from + ARGV[4] - 1
return {state, down and call('ZRANGE', name, from, to, 'REV', 'WITHSCORES') or call('ZRANGE', name, from, to, 'WITHSCORES')}
