"""Jobs: searches over models of one data set, and what happens to them."""
