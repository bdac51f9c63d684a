package conns

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
	return Stats{
		Limit: c.limit(), Open: c.open, Used: c.used, Idle: c.idle.n, Dialing: c.dialing, Waiting: c.waiting,
		Granted: c.granted, Timeouts: c.timeouts, Dials: c.dials, DialFailures: c.dialFailures,
	}
}
