package conns

import "time"

// lately is how long ago a connection was used that is warm still.
const lately = 10 * time.Second

// SetShare sets how many connections this process may have to a cluster, as the registry leased it to this one: the
// cluster's budget is for all that share it. Without Config.Leased, that is all of the budget until the first call.
//
// A smaller share holds at once for new connections: idle ones are closed, and those in use that are too many when they
// are released. Stats tells when there are no more than that.
func (p *Pools) SetShare(cluster string, share int) {
	c := p.cluster(cluster)
	c.mu.Lock()
	defer c.mu.Unlock()
	c.leased, c.share = true, share
	c.dispatch()
}

// Stats is the state of one cluster's connections, and what was done since the start.
type Stats struct {
	// Limit is how many connections there may be.
	Limit int
	// Open is how many there are: Used, Idle, and those that are being closed.
	Open int
	// Used is how many are in use, being made, being cleaned or checked, or broken and being closed.
	Used int
	// Idle is how many of them nobody uses.
	Idle int
	// Dialing is how many of Used are being made.
	Dialing int
	// Waiting is how many calls want one and have none.
	Waiting int
	// Warm is how many of Idle were used lately, and how many such were closed in the last second to make room for another
	// tenant's: what calls will likely want soon.
	Warm int

	// Granted counts the connections, and places for new ones, that calls were given.
	Granted uint64
	// Timeouts counts the calls that waited for MaxWait in vain.
	Timeouts uint64
	// Dials counts the attempts to make a connection.
	Dials uint64
	// DialFailures counts those of them that failed, other than by the end of the call.
	DialFailures uint64
}

// Stats returns the state of each cluster that somebody ever wanted a connection to.
func (p *Pools) Stats() map[string]Stats {
	clusters := *p.clusters.Load()
	all := make(map[string]Stats, len(clusters))
	for name, c := range clusters {
		all[name] = c.stats()
	}
	return all
}

func (c *cluster) stats() Stats {
	c.mu.Lock()
	defer c.mu.Unlock()
	now := time.Now()
	return Stats{
		Limit: c.limit(), Open: c.open, Used: c.used, Idle: c.idle.n, Dialing: c.dialing, Waiting: c.waiting,
		Warm:    c.warmIdle(now) + c.displaced.lastSecond(now),
		Granted: c.granted, Timeouts: c.timeouts, Dials: c.dials, DialFailures: c.dialFailures,
	}
}

// warmIdle is how many idle connections were used lately.
func (c *cluster) warmIdle(now time.Time) int {
	n := 0
	for s := c.idle.last; s != nil && now.Sub(s.since) < lately; s = s.prev {
		n++
	}
	return n
}

// displace counts a connection that makes room for another tenant's.
func (c *cluster) displace(s *server) {
	if now := time.Now(); now.Sub(s.since) < lately {
		c.displaced.add(now)
	}
}

// recent counts what happens, by the second.
type recent struct {
	second      time.Time // that now counts, and
	now, before int       // in the one before it
}

func (r *recent) add(at time.Time) {
	r.roll(at)
	r.now++
}

// lastSecond is how much happened in it, by and large: what of the second before is not over yet counts by its part.
func (r *recent) lastSecond(at time.Time) int {
	r.roll(at)
	return r.now + int(float64(r.before)*(1-at.Sub(r.second).Seconds()))
}

func (r *recent) roll(at time.Time) {
	switch age := at.Sub(r.second); {
	case age < time.Second:
	case age < 2*time.Second:
		r.second, r.now, r.before = r.second.Add(time.Second), 0, r.now
	default:
		r.second, r.now, r.before = at, 0, 0
	}
}
