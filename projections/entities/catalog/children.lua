-- Finds the rows that refer to given parents, those that are served and those that wait, bounded in rows and bytes.
--
-- KEYS  as in rows.lua, which is no part of it; the layout stands before it
-- ARGV  most rows, most bytes, then the parents: table|id
--
-- Returns whether more follow (0 or 1), then for each child: the parent, the form's name, the child's id, where it is (what
-- the form's ids hold for it, or the place of what waits), its line, and of one that waits the parents, a line each.

local edges, waiting, wanted = KEYS[2], KEYS[3], KEYS[4]
local forms = setmetatable({}, { __index = function(forms, name)
  for _, form in ipairs(layout[table_of[name]]().forms) do
    form.rows = {}
    for at, variant in ipairs(form.variants) do form.rows[variant[1]] = KEYS[form.at + at] end
    forms[form.name] = form
  end
  return rawget(forms, name)
end })

local function served(name, id)
  return redis.call('HGET', KEYS[forms[name].at], id), ''
end

local function waits(name, id)
  return string.match(redis.call('HGET', waiting, name .. '|' .. id), '^([^\n]+)\n[^\n]*\n(.*)$')
end

local most, room, found = tonumber(ARGV[1]), tonumber(ARGV[2]), { 0 }
for at = 3, #ARGV do
  local parent = ARGV[at]
  for _, index in ipairs({ { edges, served }, { wanted, waits } }) do
    local low, high = '[' .. parent .. '|', '(' .. parent .. '}'
    for _, member in ipairs(redis.call('ZRANGEBYLEX', index[1], low, high, 'LIMIT', 0, most + 1)) do
      if most == 0 or room < 0 then
        found[1] = 1
        return found
      end
      local name, id = string.match(string.sub(member, #parent + 2), '([^|]+)|(.+)')
      local place, refs = index[2](name, id)
      local score = string.sub(place, 2)
      local line = redis.call('ZRANGEBYSCORE', forms[name].rows[string.sub(place, 1, 1)], score, score)[1]
      for _, value in ipairs({ parent, name, id, place, line, refs }) do found[#found + 1] = value end
      most, room = most - 1, room - #line
    end
  end
end
return found
