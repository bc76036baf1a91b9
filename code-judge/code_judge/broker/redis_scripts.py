"""The scripts that change several things in Redis in one step. All workers are consumers of the group `workers`."""

ADD = """
local entries = {}
redis.call('SET', ARGV[2], 1, 'PX', ARGV[3])
for i = 4, #ARGV, 3 do
  local fields = {'id', ARGV[i + 1], 'reply', ARGV[1], 'api', ARGV[2], 'submission', ARGV[i + 2]}
  entries[#entries + 1] = redis.call('XADD', ARGV[i], '*', unpack(fields))
end
return entries
"""
"""ARGV: key that takes the results; key of the caller's sign of life, and for how many milliseconds it holds; stream,
id and submission of each job. Returns their entries."""

EXCHANGE = """
local replies = {}
for i = 4, #ARGV, 5 do
  local stream, entry, reply = ARGV[i], ARGV[i + 1], ARGV[i + 2]
  redis.call('XADD', reply, '*', 'id', ARGV[i + 3], 'result', ARGV[i + 4])
  redis.call('XACK', stream, 'workers', entry)
  redis.call('XDEL', stream, entry)
  replies[reply] = true
end
for reply in pairs(replies) do redis.call('EXPIRE', reply, ARGV[1]) end
local room, jobs = tonumber(ARGV[3]), {}
local function take(stream, most)
  if most <= 0 then return 0 end
  local new = redis.pcall('XREADGROUP', 'GROUP', 'workers', ARGV[2], 'COUNT', most, 'STREAMS', stream, '>')
  if not new or new.err then return 0 end
  jobs[#jobs + 1] = new[1]
  return #new[1][2]
end
local half = math.ceil(room / 2)
local first = take(KEYS[1], half)
local second = take(KEYS[2], room - first)
if first == half then take(KEYS[1], room - first - second) end
return jobs
"""
"""KEYS: the streams, that whose turn it is first. ARGV: seconds that the results wait, the caller's name, the most new
jobs; stream, entry, key for the result, id and result of each finished job. Each result and the end of its job in one
step; then the next jobs, as XREADGROUP returns them, of the two streams half and half where both have enough."""

WITHDRAW = """
local withdrawn = {}
for _, id in ipairs(ARGV) do
  if #redis.pcall('XPENDING', KEYS[1], 'workers', id, id, 1) == 0 and redis.call('XDEL', KEYS[1], id) == 1 then
    withdrawn[#withdrawn + 1] = id
  end
end
return withdrawn
"""
"""KEYS: stream. ARGV: entries. Deletes those that no worker has taken and returns them."""

MISSING = """
local missing = {}
for _, id in ipairs(ARGV) do
  if #redis.call('XRANGE', KEYS[1], id, id) == 0 then missing[#missing + 1] = id end
end
return missing
"""
"""KEYS: stream. ARGV: entries. Returns those that are not there."""

RECLAIM = """
local taken = {}
for _, consumer in ipairs(redis.call('XINFO', 'CONSUMERS', KEYS[1], 'workers')) do
  local name, pending = consumer[2], consumer[4]
  if redis.call('EXISTS', ARGV[1] .. name) == 0 then
    if pending == 0 then
      redis.call('XGROUP', 'DELCONSUMER', KEYS[1], 'workers', name)
    elseif #taken < tonumber(ARGV[3]) then
      local entries = redis.call('XPENDING', KEYS[1], 'workers', '-', '+', ARGV[3] - #taken, name)
      for _, entry in ipairs(entries) do
        -- Counted as a delivery only when it is begun.
        local claimed = redis.call('XCLAIM', KEYS[1], 'workers', ARGV[2], 0, entry[1], 'RETRYCOUNT', entry[4])
        if claimed[1] then
          taken[#taken + 1] = {claimed[1][1], claimed[1][2], entry[4]}
        else
          redis.call('XACK', KEYS[1], 'workers', entry[1])
        end
      end
    end
  end
end
return taken
"""
"""KEYS: stream. ARGV: prefix of the workers' keys, the caller's name, the most entries. Gives the caller what workers
without a sign of life have taken: entry, fields, number of deliveries so far. Forgets those workers."""

BEGIN = """
for i = 2, #ARGV, 2 do
  redis.call('XCLAIM', KEYS[1], 'workers', ARGV[1], 0, ARGV[i], 'RETRYCOUNT', ARGV[i + 1], 'JUSTID')
end
"""
"""KEYS: stream. ARGV: the caller's name; entry and number of deliveries of each job that the caller begins."""

RECOVER = """
local known, found = {}, {}
for i = 2, #ARGV do known[ARGV[i]] = true end
for _, pending in ipairs(redis.call('XPENDING', KEYS[1], 'workers', '-', '+', 100000, ARGV[1])) do
  if not known[pending[1]] then
    local entry = redis.call('XRANGE', KEYS[1], pending[1], pending[1])[1]
    if entry then
      found[#found + 1] = {entry[1], entry[2], pending[4]}
    else
      redis.call('XACK', KEYS[1], 'workers', pending[1])
    end
  end
end
return found
"""
"""KEYS: stream. ARGV: the caller's name, entries that it knows. Returns what else is the caller's, as RECLAIM does,
without counting it as a delivery: the reply that brought it was lost."""

RELEASE = """
local known, uncounted = {}, {}
local keeps = tonumber(ARGV[2])
for i = 3, 2 + keeps do known[ARGV[i]] = true end
for i = 3 + keeps, #ARGV do uncounted[ARGV[i]] = true end
for _, pending in ipairs(redis.call('XPENDING', KEYS[1], 'workers', '-', '+', 100000, ARGV[1])) do
  if not known[pending[1]] then
    local count = pending[4]
    if not uncounted[pending[1]] then count = count - 1 end
    redis.call('XCLAIM', KEYS[1], 'workers', 'released', 0, pending[1], 'RETRYCOUNT', count, 'JUSTID')
  end
end
"""
"""KEYS: stream. ARGV: the caller's name; number of entries that it keeps, and these; entries that it has not counted as
delivered. Leaves the rest of what is the caller's to RECLAIM. The caller has not begun it, or has stopped it, so what
was counted as a delivery to it no longer is."""

STATUSES = """
local statuses = {}
for _, name in ipairs(redis.call('SMEMBERS', KEYS[1])) do
  local status = redis.call('GET', ARGV[1] .. name)
  if status then statuses[#statuses + 1] = status else redis.call('SREM', KEYS[1], name) end
end
return statuses
"""
"""KEYS: names of the workers. ARGV: prefix of the workers' keys. Returns the statuses of the live workers."""
