-- numbers: whole numbers as text, and text as numbers. Commands get numbers as text: the server
-- prints each number that it is given at the price of a short command. Both are tables, because
-- looking up costs a fifth of a call; small numbers, which most are, are there from the start.
local numbers = {}

-- `numbers.text[n]` is the whole number n as text.
numbers.text = setmetatable({}, { __index = function(_, n) return string.format('%d', n) end })

-- `numbers.value[t]` is the number that a script wrote as the text t, nil where t is no number.
numbers.value = setmetatable({}, { __index = function(_, t) return tonumber(t) end })

for n = 0, 1000 do
  numbers.text[n] = string.format('%d', n)
  numbers.value[numbers.text[n]] = n
end
return numbers
