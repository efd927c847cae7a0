-- Add what a worker counted to the slots of now, of each ring.
-- KEYS  rates (hash)
-- ARGV  how many rings; of each the length of a slot in s, how many slots it has, when the slot of now begins (s); then
--         the counts
-- A field is `<length>:<number of the slot in its ring>`, its value `<when it begins> <count> …`: what a slot held a round
-- ago is gone with its next first count.
local rings = tonumber(ARGV[1])
local first = 2 + 3 * rings
for ring = 2, 1 + 3 * rings, 3 do
  local length, slots, begins = tonumber(ARGV[ring]), tonumber(ARGV[ring + 1]), ARGV[ring + 2]
  local field = length .. ':' .. string.format('%.0f', math.floor(begins / length) % slots)
  local held, counts = redis.call('HGET', KEYS[1], field), {}
  if held then
    for number in string.gmatch(held, '%d+') do
      counts[#counts + 1] = number
    end
  end
  if counts[1] ~= begins then
    counts = {begins}
  end
  for at = first, #ARGV do
    local place = at - first + 2
    counts[place] = string.format('%.0f', (counts[place] or 0) + ARGV[at])
  end
  redis.call('HSET', KEYS[1], field, table.concat(counts, ' '))
end
