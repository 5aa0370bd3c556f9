-- numbers: whole numbers as text, and text as numbers. Commands get numbers as text, because
-- formatting a number costs the server as much as a short command. Both are tables, because a
-- lookup costs a fifth of a call. Small numbers, the most frequent ones, are filled in at load
-- time.
local numbers = {}

-- `numbers.text[n]` is the whole number n as text.
numbers.text = setmetatable({}, { __index = function(_, n) return string.format('%d', n) end })

-- `numbers.value[t]` is the number with the text t, or nil if t is not a number.
numbers.value = setmetatable({}, { __index = function(_, t) return tonumber(t) end })

for n = 0, 1000 do
  numbers.text[n] = string.format('%d', n)
  numbers.value[numbers.text[n]] = n
end
return numbers
