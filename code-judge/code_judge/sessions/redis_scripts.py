"""The scripts that change several things of sessions in Redis in one step.

KEYS of each: the set of homes. A call is seven values: id, chosen by the caller; reply, key of the stream that takes
the answer; action, name and body, see actions.py; within, seconds from its entry in which it has to start; request, the
id of the HTTP request.
"""

_ADD = """
local function add(calls, first, ttl)
  local fields = {}
  for n, name in ipairs({'id', 'reply', 'action', 'name', 'body', 'within', 'request'}) do
    fields[2 * n - 1] = name
    fields[2 * n] = ARGV[first + n - 1]
  end
  local entry = redis.call('XADD', calls, '*', unpack(fields))
  redis.call('PEXPIRE', calls, ttl)
  return entry
end
"""

SEND = (
    _ADD
    + """
local sent = {}
for i = 4, #ARGV, 8 do
  local entry = add(ARGV[2] .. ARGV[i], i + 1, ARGV[3])
  sent[#sent + 1] = {entry, redis.call('HGET', ARGV[1] .. ARGV[i], 'state')}
end
return sent
"""
)
"""ARGV: prefix of the homes' keys, prefix of the streams of calls, milliseconds that a call waits for its home; home
and call, as often as wanted. Returns entry and state of the home of each."""

PLACE = (
    _ADD
    + """
local excluded, best, most, others = {}, nil, 0, 0
for i = 12, #ARGV do excluded[ARGV[i]] = true end
for _, home in ipairs(redis.call('SMEMBERS', KEYS[1])) do
  local found = redis.call('HMGET', ARGV[1] .. home, 'state', 'free')
  if not found[1] then
    redis.call('SREM', KEYS[1], home)
  elseif found[1] == ARGV[4] and not excluded[home] then
    others = others + 1
    if tonumber(found[2]) > most then best, most = home, tonumber(found[2]) end
  end
end
if not best then return {others} end
redis.call('HINCRBY', ARGV[1] .. best, 'free', -1)
return {others, best, add(ARGV[2] .. best, 5, ARGV[3])}
"""
)
"""ARGV: as SEND; the state of a home that takes sessions; a call that opens one; homes that do not come into question.
Hands the call to the home with the most free places. Returns how many homes came into question, and if one has a place
its name and the call's entry."""

LOOK = """
local missing = {}
for i = 4, #ARGV do
  if #redis.call('XRANGE', ARGV[2] .. ARGV[3], ARGV[i], ARGV[i]) == 0 then missing[#missing + 1] = ARGV[i] end
end
return {redis.call('HGET', ARGV[1] .. ARGV[3], 'state') or '', missing}
"""
"""ARGV: prefix of the homes' keys, prefix of the streams of calls, a home, entries of calls. Returns the home's state,
empty if it is missing, and those of the calls that are not there."""

SIGN = """
local home, calls = ARGV[1] .. ARGV[3], ARGV[2] .. ARGV[3]
redis.call(ARGV[5] == ARGV[6] and 'SREM' or 'SADD', KEYS[1], ARGV[3])
redis.call('HSET', home, 'state', ARGV[5], 'open', ARGV[8], 'most', ARGV[9], 'free', ARGV[10])
redis.call('PEXPIRE', home, ARGV[7])
redis.call('PEXPIRE', calls, ARGV[4])
for i = 11, #ARGV, 5 do
  if ARGV[i + 1] ~= '' then
    redis.call('XADD', ARGV[i + 1], '*', 'id', ARGV[i + 2], ARGV[i + 3], ARGV[i + 4])
    redis.call('PEXPIRE', ARGV[i + 1], ARGV[4])
  end
  redis.call('XDEL', calls, ARGV[i])
end
return redis.call('TIME')
"""
"""A home's sign of life with its answers. ARGV: as SEND, but the home's name before the milliseconds; its state; the
state of a home that has ended; milliseconds that the sign holds; open, most, free; entry, stream for the answer (none:
empty), id, `result` or `error`, and text of each answer. Returns Redis' time."""

HOMES = """
local found = {}
for _, home in ipairs(redis.call('SMEMBERS', KEYS[1])) do
  local places = redis.call('HMGET', ARGV[1] .. home, 'open', 'most')
  if places[1] then found[#found + 1] = places else redis.call('SREM', KEYS[1], home) end
end
return found
"""
"""ARGV: prefix of the homes' keys. Returns how many sessions are open and may be in each home."""
