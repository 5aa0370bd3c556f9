-- numbers: whole numbers as text, and text as numbers. Commands get numbers as text, because
-- formatting a number costs the server as much as a short command. Both are tables, because a
-- lookup costs a fifth of a call. Small numbers, the most frequent ones, are filled in at load
-- time.
local numbers = {}

-- `numbers.text[n]` is the whole number n as text.
numbers.text = setmetatable({}, { __index = function(_, n) return string.format('%d', n) end })

-- `numbers.value[t]` is the whole number with the text t, or nil if t is none of 0 to 9e15. A loop
-- that reaches 2^53, about 9.007e15, would not end: 2^53 + 1 is 2^53.
numbers.value = setmetatable({}, { __index = function(_, t)
  local n = tonumber(t)
  if n and n >= 0 and n <= 9e15 and n % 1 == 0 then return n end
  return nil
end })

for n = 0, 1000 do
  numbers.text[n] = string.format('%d', n)
  numbers.value[numbers.text[n]] = n
end
return numbers
