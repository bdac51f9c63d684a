package forward

import (
	"sync"
	"sync/atomic"
)

// stay is how many goroutines wait for the next call's messages.
const stay = 128

// crew are the goroutines that pass callers' messages on, one for each call. Some of them stay for the next call, as their
// stacks have grown to what that needs.
type crew struct {
	pumps   chan *pump
	done    chan struct{}
	size    atomic.Int32
	members sync.WaitGroup
}

func newCrew() *crew { return &crew{pumps: make(chan *pump), done: make(chan struct{})} }

// send has somebody send a call's messages.
func (c *crew) send(p *pump) {
	select {
	case c.pumps <- p:
	default:
		c.members.Go(func() { c.work(p) })
	}
}

// work is one goroutine's.
func (c *crew) work(p *pump) {
	defer c.size.Add(-1)
	staying := c.size.Add(1) <= stay
	p.send()
	for staying {
		select {
		case next := <-c.pumps:
			next.send()
		case <-c.done:
			return
		}
	}
}

// close waits until all have gone. No call may be under way.
func (c *crew) close() {
	close(c.done)
	c.members.Wait()
}
