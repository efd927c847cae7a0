-- The second part of the write script: rows that wait, because they refer to rows that are not there.
--
-- A row that waits lies among the rows of its type, 2^52 µs later than it was written and so behind every horizon. What
-- it replaces, if it is not new, is served until then: a row that is served never refers to one that is not.

local WAITS_US, REF = 4503599627370496, '(%*?)([^|\n]+)|([^\n]+)'
local known = {} -- parents found to be there

local function is_there(name, id)
  local ref = name .. '|' .. id
  if known[ref] then return true end
  for _, form in ipairs(tables[name].forms) do
    if is_upsert(redis.call('HGET', form.ids, id)) then
      known[ref] = true
      return true
    end
  end
  return false
end

-- Tells whether a row that is served has this parent already.
local function refers_to(form, line, name, id)
  local data = cjson.decode(line .. '"}').data
  for _, parent in ipairs(form.parents) do
    if parent[2] == name and data[parent[1]] == id then return true end
  end
  return false
end

-- Names a parent that is not there; nil if all are. A row that is served with this reference already goes on so.
local function missing(refs, form, line)
  for star, name, id in string.gmatch(refs, REF) do
    if star == '' and not is_there(name, id) and not (line and refers_to(form, line, name, id)) then
      return name .. '|' .. id
    end
  end
  return nil
end

local function entry_of(form, id)
  local entry = any_waits and redis.call('HGET', waiting, form.name .. '|' .. id)
  if not entry then return nil end
  return string.match(entry, '^(%a%d+)\n([^\n]*)\n(.*)$')
end

local function note(form, id, place, ref, refs)
  redis.call('HSET', waiting, form.name .. '|' .. id, place .. '\n' .. ref .. '\n' .. refs)
end

local function each_wanted(command, form, id, refs)
  for star, name, parent in string.gmatch(refs, REF) do
    local member = name .. '|' .. parent .. '|' .. form.name .. '|' .. id
    if star == '' then redis.call(command, wanted, unpack(command == 'ZADD' and { 0, member } or { member })) end
  end
end

-- Drops what waits for an id. It is told by a stamp, as every change is.
local function forget(form, id)
  local place, _, refs = entry_of(form, id)
  if not place then return end
  redis.call('ZREMRANGEBYSCORE', form.rows[string.sub(place, 1, 1)], string.sub(place, 2), string.sub(place, 2))
  redis.call('HDEL', waiting, form.name .. '|' .. id)
  each_wanted('ZREM', form, id, refs)
  next_stamp()
end

-- Has a row wait for a parent: h for one that did not yet, e for an equal one.
local function hold(form, letter, id, head, refs, ref)
  local place, was, its = entry_of(form, id)
  if place and string.sub(place, 1, 1) == letter and its == refs and head_of(line_at(form, place), id) == head then
    if was ~= ref then note(form, id, place, ref, refs) end
    return 'e'
  end
  forget(form, id)
  local stamp = WAITS_US + next_stamp()
  local score = string.format('%.0f', stamp)
  redis.call('ZADD', form.rows[letter], score, head .. iso(stamp) .. '|' .. escaped(id))
  note(form, id, letter .. score, ref, refs)
  each_wanted('ZADD', form, id, refs)
  any_waits = true
  return 'h'
end

-- Notes what rows that wait are to be looked at for; they are, by and by, and from the first if it is noted again.
local function note_arrived(member)
  local done = redis.call('HGET', meta, 'looked_at')
  if done and string.sub(done, 1, #member + 1) == member .. '\n' then redis.call('HDEL', meta, 'looked_at') end
  redis.call('ZADD', arrived, last, member)
end

-- A row came which others may wait for.
local function arrive(name, id)
  if has_any(wanted, name, id) then note_arrived(name .. '|' .. id) end
end

-- Nothing refers to a row any more, or it is gone: what waits to give it another owner may do so now.
local function unbind(name, id)
  for _, form in ipairs(tables[name].forms) do
    if form.is_owned and redis.call('HEXISTS', waiting, form.name .. '|' .. id) == 1 then
      note_arrived('=' .. form.name .. '|' .. id)
    end
  end
end

local function unbind_all(cut)
  if not any_waits then return end
  for _, edge in ipairs(cut) do
    local name, id = string.match(edge, '([^|]+)|([^|]+)')
    if not has_any(edges, name, id) then unbind(name, id) end
  end
end
