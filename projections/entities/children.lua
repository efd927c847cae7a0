-- Finds the rows that refer to given parents, bounded in rows and bytes.
--
-- KEYS  edges, then for each form of the layout: ids, and the rows of each variant (as in write.lua, without meta)
-- ARGV  the layout (JSON), most rows, most bytes, then the parents: table|id
--
-- Returns whether more follow (0 or 1), then for each child: the parent, the form's name, the child's id, what the form's
-- ids hold for it, its line.

local forms, key_at = {}, 2
for _, form in ipairs(cjson.decode(ARGV[1])) do
  form.ids, form.rows = KEYS[key_at], {}
  for at, variant in ipairs(form.variants) do form.rows[variant[1]] = KEYS[key_at + at] end
  key_at = key_at + 1 + #form.variants
  forms[form.name] = form
end

local most, room, found = tonumber(ARGV[2]), tonumber(ARGV[3]), { 0 }
for at = 4, #ARGV do
  local parent = ARGV[at]
  local members = redis.call('ZRANGEBYLEX', KEYS[1], '[' .. parent .. '|', '(' .. parent .. '}', 'LIMIT', 0, most + 1)
  for _, member in ipairs(members) do
    if most == 0 or room < 0 then
      found[1] = 1
      return found
    end
    local name, id = string.match(string.sub(member, #parent + 2), '([^|]+)|(.+)')
    local held = redis.call('HGET', forms[name].ids, id)
    local stamp = string.sub(held, 2)
    local line = redis.call('ZRANGEBYSCORE', forms[name].rows[string.sub(held, 1, 1)], stamp, stamp)[1]
    for _, value in ipairs({ parent, name, id, held, line }) do found[#found + 1] = value end
    most, room = most - 1, room - #line
  end
end
return found
