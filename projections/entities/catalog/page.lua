-- Reads a page of rows, bounded in rows and bytes.
--
-- KEYS  rows, meta
-- ARGV  lower bound of the stamps, upper bound (both as ZRANGE reads them), most rows, most bytes, the entity type stored
--
-- Returns the lines, at least one if there is any; then whether more follow (0 or 1), the last stamp of the library, and
-- the length of the longest line the type ever had.

local most, room, found, at = tonumber(ARGV[3]), tonumber(ARGV[4]), {}, 0
local more = 0
while more == 0 do
  local step = math.min(64, most - at + 1)
  local lines = redis.call('ZRANGE', KEYS[1], ARGV[1], ARGV[2], 'BYSCORE', 'LIMIT', at, step)
  for _, line in ipairs(lines) do
    room = room - #line
    if at == most or (room < 0 and at > 0) then
      more = 1
      break
    end
    at = at + 1
    found[at] = line
  end
  if #lines < step then break end
end
found[at + 1] = more
found[at + 2] = redis.call('HGET', KEYS[2], 'last') or '0'
found[at + 3] = redis.call('HGET', KEYS[2], 'longest:' .. ARGV[5]) or '0'
return found
