-- The first part of the write script: a library's rows as they lie in its keys, and the stamps they are given.
--
-- KEYS  meta, edges, waiting, wanted, arrived, checksums, then for each form of the layout: ids, and the rows of each variant
-- ARGV  as in write.lua
--
-- The layout stands before it (layout.py): table_of, layout.

local meta, edges, waiting, wanted, arrived, checksums = unpack(KEYS, 1, 6)
local wrong

local function look(key, kind)
  local is = redis.call('TYPE', key)['ok']
  if is ~= 'none' and is ~= kind then wrong = 'WRONGTYPE ' .. key .. ' is a ' .. is .. ', not a ' .. kind end
  return is == kind
end

-- The forms by their names, and the tables that they are of: each is made when it is first asked for.
local named, tables = {}, {}

setmetatable(named, { __index = function(_, name)
  local own = tables[table_of[name]]
  return own and rawget(named, name)
end })

setmetatable(tables, { __index = function(_, name)
  local own = layout[name]()
  own.markers = 0
  for _, form in ipairs(own.forms) do
    form.ids, form.rows, form.types = KEYS[form.at], {}, {}
    look(form.ids, 'hash')
    for at, variant in ipairs(form.variants) do
      local letter, rows = variant[1], KEYS[form.at + at]
      form.rows[letter], form.types[letter] = rows, variant[2]
      if look(rows, 'zset') and letter == 'd' then own.markers = own.markers + redis.call('ZCARD', rows) end
    end
    named[form.name] = form
  end
  for at, part in ipairs(own.parts) do own.parts[at] = named[part] end
  tables[name] = own
  return own
end })

local function look_at_table(name)
  return tables[name] ~= nil
end

-- What these writes may touch is looked at before the first of them. Where rows wait, that is everything.
look(meta, 'hash')
look(edges, 'zset')
local any_checksums = look(checksums, 'zset')
local any_waits, any_wanted, any_arrived = look(waiting, 'hash'), look(wanted, 'zset'), look(arrived, 'zset')
if any_waits or any_wanted or any_arrived then
  for name in pairs(layout) do look_at_table(name) end
else
  for at = 2, #ARGV, 5 do
    if ARGV[at] ~= ARGV[at - 5] then
      for _, parent in ipairs(named[string.match(ARGV[at], '^[^:]+')].parents) do look_at_table(parent[2]) end
    end
  end
end
if wrong then return redis.error_reply(wrong) end

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

local function next_stamp()
  last = math.max(now, last + 1)
  return last
end

local function line_at(form, held)
  return redis.call('ZRANGEBYSCORE', form.rows[string.sub(held, 1, 1)], string.sub(held, 2), string.sub(held, 2))[1]
end

-- What of a line comes before its time.
local function head_of(line, id)
  return string.sub(line, 1, #line - 28 - #escaped(id))
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

-- Takes out whatever stands for an id, with its edges, and appends these to `cut`; leaves the ids entry to the caller.
local function take_out(form, id, held, cut)
  local letter = string.sub(held, 1, 1)
  if letter == 'r' then return end
  if letter == 'd' then
    tables[form.table].markers = tables[form.table].markers - 1
  elseif #form.refs > 0 then
    for _, edge in ipairs(edges_of(form, id, line_at(form, held))) do
      redis.call('ZREM', edges, edge)
      cut[#cut + 1] = edge
    end
  end
  redis.call('ZREMRANGEBYSCORE', form.rows[letter], string.sub(held, 2), string.sub(held, 2))
end

-- Keeps a row whose checksum changed at its place in the order; `changes` makes it one.
local function note_checksum(form, id, changes)
  local member = form.name .. '|' .. id
  if not changes and not (any_checksums and redis.call('ZSCORE', checksums, member)) then return end
  redis.call('ZADD', checksums, string.format('%.0f', last), member)
  newest['newest:checksums'] = string.format('%.0f', last) .. '|' .. member
  any_checksums = true
end

local function add(form, letter, id, head, changes)
  local stamp = string.format('%.0f', next_stamp())
  local line, field = head .. iso(last) .. '|' .. escaped(id), 'longest:' .. form.types[letter]
  longest[field] = longest[field] or tonumber(redis.call('HGET', meta, field) or 0)
  if #line > longest[field] then
    longest[field] = #line
    redis.call('HSET', meta, field, #line)
  end
  newest['newest:' .. form.types[letter]] = stamp .. '|' .. id
  redis.call('ZADD', form.rows[letter], stamp, line)
  redis.call('HSET', form.ids, id, letter .. stamp)
  if letter == 'd' then
    tables[form.table].markers = tables[form.table].markers + 1
  elseif form.excludes then
    note_checksum(form, id, changes)
  end
end

-- Tells whether an index has members that begin with a row: what refers to it.
local function has_any(index, name, id)
  local prefix = name .. '|' .. id
  return #redis.call('ZRANGEBYLEX', index, '[' .. prefix .. '|', '(' .. prefix .. '}', 'LIMIT', 0, 1) > 0
end
