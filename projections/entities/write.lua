-- Writes entities into a library's catalog, each with a stamp of its own that is higher than all before.
--
-- KEYS  meta, edges, then for each form of the layout: ids, and the rows of each variant
-- ARGV  1: the layout (JSON), then five for each write:
--         <form number><letter>   u, m, b: an upsert; d: a delete marker
--         id
--         head                    the line up to its time
--         refs                    parents, one a line: table|id, or *table|id to give the parent a new time with this
--         expected                what the form's ids must hold for the id; empty: anything
--
-- Returns one letter for each write (w written, u unchanged, m not as expected, c children are left, k the owner may not
-- change, o a parent was deleted), then for each o: the number of the write and the table of the parent.
-- A write that is not w or u changes nothing. Stamps are the server's time in µs, or one more than the last.

local forms, tables, parts = cjson.decode(ARGV[1]), {}, {}
local kinds = { { KEYS[1], 'hash' }, { KEYS[2], 'zset' } }
local meta, edges, key_at = KEYS[1], KEYS[2], 3

for _, form in ipairs(forms) do
  form.ids, form.rows, form.types = KEYS[key_at], {}, {}
  kinds[#kinds + 1] = { form.ids, 'hash' }
  for at, variant in ipairs(form.variants) do
    form.rows[variant[1]], form.types[variant[1]] = KEYS[key_at + at], variant[2]
    kinds[#kinds + 1] = { KEYS[key_at + at], 'zset' }
  end
  key_at = key_at + 1 + #form.variants
  tables[form.table] = tables[form.table] or { forms = {}, parts = {}, markers = 0 }
  local own = tables[form.table]
  own.forms[#own.forms + 1] = form
end

for _, pair in ipairs(kinds) do
  local kind = redis.call('TYPE', pair[1])['ok']
  if kind ~= 'none' and kind ~= pair[2] then
    return redis.error_reply('WRONGTYPE ' .. pair[1] .. ' is a ' .. kind .. ', not a ' .. pair[2])
  end
end

for _, form in ipairs(forms) do
  local own = tables[form.table]
  if form.rows.d then own.markers = own.markers + redis.call('ZCARD', form.rows.d) end
  if form.with ~= '' then
    local of = tables[form.with].parts
    of[#of + 1] = form
  end
end

local time = redis.call('TIME')
local now = time[1] * 1000000 + time[2]
local last = tonumber(redis.call('HGET', meta, 'last') or 0)
local first, dated, date, longest, newest = last, -1, nil, {}, {}

-- The civil date of a count of days since 1970 (the sandbox has no os.date); Howard Hinnant's algorithm.
local function civil(days)
  local z = days + 719468
  local era = math.floor(z / 146097)
  local doe = z - era * 146097
  local yoe = math.floor((doe - math.floor(doe / 1460) + math.floor(doe / 36524) - math.floor(doe / 146096)) / 365)
  local doy = doe - (365 * yoe + math.floor(yoe / 4) - math.floor(yoe / 100))
  local mp = math.floor((5 * doy + 2) / 153)
  local month = mp < 10 and mp + 3 or mp - 9
  return yoe + era * 400 + (month <= 2 and 1 or 0), month, doy - math.floor((153 * mp + 2) / 5) + 1
end

local function iso(us)
  local seconds = math.floor(us / 1000000)
  if seconds ~= dated then
    local days = math.floor(seconds / 86400)
    local rest = seconds - days * 86400
    local year, month, day = civil(days)
    dated = seconds
    date = string.format(
      '%04d-%02d-%02dT%02d:%02d:%02d.',
      year, month, day, math.floor(rest / 3600), math.floor(rest / 60) % 60, rest % 60
    )
  end
  return date .. string.format('%06dZ', us - seconds * 1000000)
end

local function escaped(id)
  return (string.gsub(id, '["\\]', '\\%0'))
end

local function line_at(form, held)
  return redis.call('ZRANGEBYSCORE', form.rows[string.sub(held, 1, 1)], string.sub(held, 2), string.sub(held, 2))[1]
end

local function is_upsert(held)
  local letter = held and string.sub(held, 1, 1)
  return letter and letter ~= 'd' and letter ~= 'r'
end

local function edges_of(form, id, line)
  local found, data = {}, cjson.decode(line .. '"}').data
  for _, ref in ipairs(form.refs) do
    if type(data[ref[1]]) == 'string' then
      found[#found + 1] = ref[2] .. '|' .. data[ref[1]] .. '|' .. form.name .. '|' .. id
    end
  end
  return found
end

-- Takes out whatever stands for an id, with its edges; leaves the ids entry to the caller.
local function take_out(form, id, held)
  local letter = string.sub(held, 1, 1)
  if letter == 'r' then return end
  if letter == 'd' then
    tables[form.table].markers = tables[form.table].markers - 1
  elseif #form.refs > 0 then
    for _, edge in ipairs(edges_of(form, id, line_at(form, held))) do redis.call('ZREM', edges, edge) end
  end
  redis.call('ZREMRANGEBYSCORE', form.rows[letter], string.sub(held, 2), string.sub(held, 2))
end

local function add(form, letter, id, head)
  last = math.max(now, last + 1)
  local stamp = string.format('%.0f', last)
  local line, field = head .. iso(last) .. '|' .. escaped(id), 'longest:' .. form.types[letter]
  longest[field] = longest[field] or tonumber(redis.call('HGET', meta, field) or 0)
  if #line > longest[field] then
    longest[field] = #line
    redis.call('HSET', meta, field, #line)
  end
  newest['newest:' .. form.types[letter]] = stamp .. '|' .. id
  redis.call('ZADD', form.rows[letter], stamp, line)
  redis.call('HSET', form.ids, id, letter .. stamp)
  if letter == 'd' then tables[form.table].markers = tables[form.table].markers + 1 end
end

-- Tells the table of a parent that was deleted and not written again.
local function deleted_parent(refs)
  for name, id in string.gmatch(refs, '%*?([^|\n]+)|([^\n]+)') do
    local dead, living = false, false
    if tables[name].markers > 0 then
      for _, form in ipairs(tables[name].forms) do
        local held = redis.call('HGET', form.ids, id)
        if is_upsert(held) then living = true end
        if held and string.sub(held, 1, 1) == 'd' then dead = true end
      end
    end
    if dead and not living then return name end
  end
  return nil
end

-- A new row of a table ends the delete markers of its other forms. Where a device may have missed the delete, parts
-- that went without a marker are overwritten.
local function revive(form, id, held)
  local own = tables[form.table]
  local was_deleted = held and string.sub(held, 1, 1) == 'd'
  if not was_deleted and own.markers == 0 then return end
  for _, other in ipairs(own.forms) do
    local entry = other ~= form and redis.call('HGET', other.ids, id)
    if entry and string.sub(entry, 1, 1) == 'd' then
      take_out(other, id, entry)
      redis.call('HDEL', other.ids, id)
      was_deleted = true
    end
  end
  if not was_deleted then return end
  for _, part in ipairs(own.parts) do
    local entry = redis.call('HGET', part.ids, id)
    if entry and string.sub(entry, 1, 1) == 'r' then
      add(part, 'u', id, part.blank[1] .. escaped(id) .. part.blank[2])
    end
  end
end

local function link(form, id, refs)
  for star, name, parent in string.gmatch(refs, '(%*?)([^|\n]+)|([^\n]+)') do
    if star == '*' then
      local owner = tables[name].forms[1]
      local held = redis.call('HGET', owner.ids, parent)
      if is_upsert(held) then
        local line = line_at(owner, held)
        redis.call('ZREMRANGEBYSCORE', owner.rows[string.sub(held, 1, 1)], string.sub(held, 2), string.sub(held, 2))
        add(owner, string.sub(held, 1, 1), parent, string.sub(line, 1, #line - 28 - #escaped(parent)))
      end
    else
      for _, ref in ipairs(form.refs) do
        if ref[2] == name then
          redis.call('ZADD', edges, 0, name .. '|' .. parent .. '|' .. form.name .. '|' .. id)
        end
      end
    end
  end
end

local function has_edges(form, id)
  local prefix = form.table .. '|' .. id
  return #redis.call('ZRANGEBYLEX', edges, '[' .. prefix .. '|', '(' .. prefix .. '}', 'LIMIT', 0, 1) > 0
end

-- A device removes a user's rows with all below them. Had a row changed its owner since, it would come again, but not
-- what is below it: so an owner stays while there is anything.
local function is_bound(form, id, line, refs)
  local owner = string.match(refs, 'user|([^\n]+)')
  if not owner or string.find(line, '"ownerId":"' .. escaped(owner) .. '"', 1, true) then return false end
  for _, part in ipairs(tables[form.table].parts) do
    if is_upsert(redis.call('HGET', part.ids, id)) then return true end
  end
  return form.is_parent and has_edges(form, id)
end

local function upsert(form, letter, id, head, refs, held)
  if is_upsert(held) then
    local line = line_at(form, held)
    if string.sub(held, 1, 1) == letter and string.sub(line, 1, #head) == head then return 'u' end
    if form.is_owned and is_bound(form, id, line, refs) then return 'k' end
  end
  local orphaned_by = deleted_parent(refs)
  if orphaned_by then return 'o', orphaned_by end
  if held then take_out(form, id, held) end
  revive(form, id, held)
  add(form, letter, id, head)
  link(form, id, refs)
  return 'w'
end

local function remove(form, id, head, held)
  if held and not is_upsert(held) and string.sub(line_at(form, held), 1, #head) == head then return 'u' end
  if form.is_parent and has_edges(form, id) then return 'c' end
  local own = tables[form.table]
  for _, other in ipairs(own.forms) do
    local entry = other ~= form and redis.call('HGET', other.ids, id)
    if is_upsert(entry) then
      take_out(other, id, entry)
      redis.call('HDEL', other.ids, id)
      if other.rows.d then
        local skip = #form.types.d
        local data = string.sub(head, 19 + skip, #head - 9 - skip)
        add(other, 'd', id, '{"type":"' .. other.types.d .. '","data":' .. data .. ',"ack":"' .. other.types.d .. '|')
      end
    end
  end
  for _, part in ipairs(own.parts) do
    local entry = redis.call('HGET', part.ids, id)
    if is_upsert(entry) then
      take_out(part, id, entry)
      redis.call('HSET', part.ids, id, 'r' .. string.format('%.0f', last))
    end
  end
  if held then take_out(form, id, held) end
  add(form, 'd', id, head)
  return 'w'
end

local codes, orphans = {}, {}
for at = 2, #ARGV, 5 do
  local number, letter = string.match(ARGV[at], '(%d+)(%a)')
  local form, id, head, refs, expected = forms[tonumber(number)], ARGV[at + 1], ARGV[at + 2], ARGV[at + 3], ARGV[at + 4]
  local held = redis.call('HGET', form.ids, id)
  local code, why
  if expected ~= '' and held ~= expected then
    code = 'm'
  elseif letter == 'd' then
    code = remove(form, id, head, held)
  else
    code, why = upsert(form, letter, id, head, refs, held)
  end
  codes[#codes + 1] = code
  if why then
    orphans[#orphans + 1] = #codes - 1
    orphans[#orphans + 1] = why
  end
end
if last > first then redis.call('HSET', meta, 'last', string.format('%.0f', last)) end
for field, place in pairs(newest) do redis.call('HSET', meta, field, place) end
return { table.concat(codes), unpack(orphans) }
