# Work of the kinds that services in Ruby do, without end.

require "json"

# A search tree, by recursion.
class Tree
  attr_reader :key

  def initialize(key)
    @key = key
  end

  def insert(key)
    if key < @key
      @left ? @left.insert(key) : @left = Tree.new(key)
    else
      @right ? @right.insert(key) : @right = Tree.new(key)
    end
  end

  def sum
    @key + (@left ? @left.sum : 0) + (@right ? @right.sum : 0)
  end
end

def plant(count)
  tree = Tree.new(2050)
  count.times { |i| tree.insert(i * 7919 % 4099) }
  tree.sum
end

def order(count)
  rows = (0...count).map { |i| { "id" => i, "name" => "name #{i * 7919 % 4099}" } }
  JSON.parse(JSON.generate(rows.sort_by { |row| row["name"] }))
end

def rewrite(rows)
  rows.map { |row| row["name"] }.join(" ").gsub(/[a-z]+ [0-9]*7/) { |found| found.upcase }
end

loop do
  plant(300)
  rewrite(order(400))
end
