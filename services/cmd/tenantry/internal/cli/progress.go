package cli

import (
	"fmt"
	"strings"
	"sync"
	"time"

	"github.com/vbauerster/mpb/v8"
	"github.com/vbauerster/mpb/v8/decor"

	provisionerv1 "github.com/tenantry/tenantry/proto/gen/go/tenantry/provisioner/v1"
)

// progress returns the fitting way to show a rollout: JSON when it is asked for, a bar on a terminal, lines elsewhere.
// A rollout's news is a log more than an answer, so the lack of a terminal alone does not make JSON of it.
func (a *app) progress() progress {
	switch {
	case a.asked:
		return &jsonProgress{a}
	case a.terminal:
		return newBarProgress(a)
	default:
		return &lineProgress{a}
	}
}

// lineProgress prints a line for each tenant.
type lineProgress struct{ app *app }

func (*lineProgress) rollout(*provisionerv1.Rollout) error { return nil }

func (p *lineProgress) result(r *provisionerv1.TenantResult) error {
	return p.app.printf("%s\n", resultLine(r))
}

func (p *lineProgress) end(r *provisionerv1.Rollout) error {
	return p.app.printf("%s\n", summary(r))
}

// jsonProgress prints an object for each tenant, and one for the whole.
type jsonProgress struct{ app *app }

func (*jsonProgress) rollout(*provisionerv1.Rollout) error { return nil }

func (p *jsonProgress) result(r *provisionerv1.TenantResult) error {
	var o object
	if err := o.add("result", r); err != nil {
		return err
	}
	return p.app.printJSON(&o)
}

func (p *jsonProgress) end(r *provisionerv1.Rollout) error {
	var o object
	if err := o.add("rollout", r); err != nil {
		return err
	}
	return p.app.printJSON(&o)
}

// barProgress draws a bar, and tells above it of each tenant that failed.
type barProgress struct {
	app *app
	all *mpb.Progress
	bar *mpb.Bar

	mu    sync.Mutex
	state string
}

// barState tells, beside the bar, what the counts do not.
func barState(r *provisionerv1.Rollout, now time.Time) string {
	parts := []string{fmt.Sprintf("wave %d", r.GetWave()+1)}
	if r.GetState() != provisionerv1.RolloutState_ROLLOUT_STATE_RUNNING {
		parts = append(parts, strings.ToLower(stateName(r.GetState(), rolloutPrefix)))
	}
	if left := r.GetSoakUntil().AsTime().Sub(now); r.GetSoakUntil() != nil && left > 0 {
		parts = append(parts, "soaking for "+left.Round(time.Second).String())
	}
	if r.GetRate() > 0 {
		parts = append(parts, fmt.Sprintf("%.0f/s", r.GetRate()))
	}
	if r.GetFailed() > 0 {
		parts = append(parts, fmt.Sprintf("%d failed", r.GetFailed()))
	}
	if r.GetRemaining() != nil {
		parts = append(parts, r.GetRemaining().AsDuration().Round(time.Second).String()+" left")
	}
	return "  " + strings.Join(parts, "  ")
}

func newBarProgress(a *app) *barProgress {
	p := &barProgress{app: a, all: mpb.New(mpb.WithOutput(a.Out), mpb.WithWidth(40), mpb.WithAutoRefresh())}
	p.bar = p.all.AddBar(0,
		mpb.PrependDecorators(decor.Name("tenants "), decor.CountersNoUnit("%d of %d ", decor.WCSyncWidth)),
		mpb.AppendDecorators(decor.Percentage(decor.WC{W: 5}), decor.Any(func(decor.Statistics) string {
			p.mu.Lock()
			defer p.mu.Unlock()
			return p.state
		})),
	)
	return p
}

func (p *barProgress) rollout(r *provisionerv1.Rollout) error {
	p.mu.Lock()
	p.state = barState(r, time.Now())
	p.mu.Unlock()
	p.bar.SetTotal(int64(r.GetTotal()), false)
	p.bar.SetCurrent(int64(r.GetSucceeded() + r.GetFailed() + r.GetSkipped()))
	return nil
}

func (p *barProgress) result(r *provisionerv1.TenantResult) error {
	if r.GetState() != provisionerv1.TenantResultState_TENANT_RESULT_STATE_FAILED {
		return nil
	}
	_, err := fmt.Fprintln(p.all, resultLine(r))
	return err
}

func (p *barProgress) end(r *provisionerv1.Rollout) error {
	// An empty bar cannot be whole, and one that was cut off is not.
	if done := p.bar.Current(); done > 0 && done == int64(r.GetTotal()) {
		p.bar.SetTotal(done, true)
	} else {
		p.bar.Abort(r.GetTotal() == 0)
	}
	p.all.Wait()
	return p.app.printf("%s\n", summary(r))
}

// summary tells a rollout in one line.
func summary(r *provisionerv1.Rollout) string {
	text := fmt.Sprintf("%d of %d tenants are at %s", r.GetSucceeded(), r.GetTotal(), r.GetToVersion())
	if r.GetTotal() == 0 {
		text = "there are no tenants to migrate"
	}
	for _, more := range []struct {
		n    int32
		what string
	}{{r.GetFailed(), "failed"}, {r.GetSkipped(), "skipped"}, {r.GetRunning() + r.GetPending(), "not done"}} {
		if more.n > 0 {
			text += fmt.Sprintf(", %d %s", more.n, more.what)
		}
	}
	if r.GetStateReason() != "" {
		text += "; " + r.GetStateReason()
	}
	return fmt.Sprintf("%s (rollout %s %s)", text, r.GetRolloutId(), stateName(r.GetState(), "ROLLOUT_STATE_"))
}
