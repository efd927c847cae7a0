-- Keep a session or a link of the console, and see to it that there are never too many.
-- KEYS  the hash they are kept in
-- ARGV  by what this one is found, until when it is good (µs), its owner, its text, the time (µs), how many there may
--       be in all, and of one owner
-- A value is `<until> <owner> <text>`. Those that are over go; beyond a bound those that would be over first.
local call, name, owner, now = redis.call, KEYS[1], ARGV[3], tonumber(ARGV[5])
local all, own = {}, {}
local flat = call('HGETALL', name)
for at = 1, #flat, 2 do
  local over, whose = string.match(flat[at + 1], '^(%d+) (%x+) ')
  over = tonumber(over or 0)
  if over <= now then
    call('HDEL', name, flat[at])
  else
    local kept = {over, flat[at]}
    all[#all + 1] = kept
    if whose == owner then
      own[#own + 1] = kept
    end
  end
end
local function make_room(kept, most)
  table.sort(kept, function(one, other)
    if one[1] ~= other[1] then
      return one[1] < other[1]
    end
    return one[2] < other[2]
  end)
  for at = 1, #kept - most + 1 do
    call('HDEL', name, kept[at][2])
  end
end
make_room(own, tonumber(ARGV[7]))
if call('HLEN', name) >= tonumber(ARGV[6]) then
  make_room(all, tonumber(ARGV[6]))
end
call('HSET', name, ARGV[1], ARGV[2] .. ' ' .. owner .. ' ' .. ARGV[4])
return 1
