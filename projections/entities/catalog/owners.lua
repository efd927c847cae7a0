-- Finds the owners' memberships of albums, those that are served and those that wait.
--
-- KEYS  edges, waiting, wanted, then of the form album_user: ids, and the rows of each variant in the order of its letters
-- ARGV  the letters, then the albums' ids
--
-- Returns for each membership with the role owner: the album's id, the membership's id, where it is (what the ids hold for
-- it, or the place of what waits), its line.

local rows, found = {}, {}
for at = 1, #ARGV[1] do rows[string.sub(ARGV[1], at, at)] = KEYS[4 + at] end

local function served(id)
  return redis.call('HGET', KEYS[4], id)
end

local function waits(id)
  return string.match(redis.call('HGET', KEYS[2], 'album_user|' .. id), '^[^\n]+')
end

for at = 2, #ARGV do
  local prefix = 'album|' .. ARGV[at] .. '|album_user|'
  local low, high = '[' .. prefix, '(' .. string.sub(prefix, 1, -2) .. '}'
  for _, index in ipairs({ { KEYS[1], served }, { KEYS[3], waits } }) do
    for _, member in ipairs(redis.call('ZRANGEBYLEX', index[1], low, high)) do
      local id = string.sub(member, #prefix + 1)
      local place = index[2](id)
      local score = string.sub(place, 2)
      local line = redis.call('ZRANGEBYSCORE', rows[string.sub(place, 1, 1)], score, score)[1]
      if string.find(line, '"role":"owner"', 1, true) then
        for _, value in ipairs({ ARGV[at], id, place, line }) do found[#found + 1] = value end
      end
    end
  end
end
return found
