-- Finds the owners' memberships of albums.
--
-- KEYS  edges, then of the form album_user: ids, and the rows of each variant in the order of its letters
-- ARGV  the letters, then the albums' ids
--
-- Returns for each membership with the role owner: the album's id, the membership's id, what the ids hold for it, its line.

local rows, found = {}, {}
for at = 1, #ARGV[1] do rows[string.sub(ARGV[1], at, at)] = KEYS[2 + at] end
for at = 2, #ARGV do
  local prefix = 'album|' .. ARGV[at] .. '|album_user|'
  for _, member in ipairs(redis.call('ZRANGEBYLEX', KEYS[1], '[' .. prefix, '(' .. string.sub(prefix, 1, -2) .. '}')) do
    local id = string.sub(member, #prefix + 1)
    local held = redis.call('HGET', KEYS[2], id)
    local stamp = string.sub(held, 2)
    local line = redis.call('ZRANGEBYSCORE', rows[string.sub(held, 1, 1)], stamp, stamp)[1]
    if string.find(line, '"role":"owner"', 1, true) then
      for _, value in ipairs({ ARGV[at], id, held, line }) do found[#found + 1] = value end
    end
  end
end
return found
