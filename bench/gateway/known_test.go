package main

import (
	"reflect"
	"testing"
)

func TestFiguresOfBenchmarksAreRead(t *testing.T) {
	got := parseBenchmarks(`goos: linux
BenchmarkByID-2     	 9876543	       121.5 ns/op	       0 B/op	       0 allocs/op
BenchmarkByID-2     	 9876543	       119.0 ns/op	       0 B/op	       0 allocs/op
BenchmarkMemory 	       1	5000000000 ns/op	       231.4 B/tenant	  12 B/op	   3 allocs/op
PASS
`)
	want := map[string][]float64{
		"ByID ns/op": {121.5, 119}, "ByID B/op": {0, 0}, "ByID allocs/op": {0, 0},
		"Memory ns/op": {5e9}, "Memory B/tenant": {231.4}, "Memory B/op": {12}, "Memory allocs/op": {3},
	}
	if !reflect.DeepEqual(got, want) {
		t.Errorf("got %v, want %v", got, want)
	}
}
