package cli

import (
	"context"
	"strconv"
	"strings"
	"time"

	"google.golang.org/protobuf/types/known/durationpb"

	provisionerv1 "github.com/tenantry/tenantry/proto/gen/go/tenantry/provisioner/v1"
)

// rolloutCmd is `tenantry rollout`.
type rolloutCmd struct {
	Start  rolloutStartCmd  `cmd:"" help:"Start to bring tenants to the newest migrations."`
	Watch  rolloutWatchCmd  `cmd:"" help:"Follow a rollout to its end."`
	Pause  rolloutPauseCmd  `cmd:"" help:"Let what runs end and begin nothing more."`
	Resume rolloutResumeCmd `cmd:"" help:"Go on with a paused rollout."`
	Cancel rolloutCancelCmd `cmd:"" help:"End a rollout; what was done stays."`
	Retry  rolloutRetryCmd  `cmd:"" help:"Take an ended rollout up again: what failed, and what it had not come to."`
	List   rolloutListCmd   `cmd:"" help:"List rollouts, newest first."`
	Show   rolloutShowCmd   `cmd:"" help:"Show a rollout and the tenants that failed."`
}

const rolloutPrefix = "ROLLOUT_STATE_"

// rollouts calls f with a client of the provisioner, as an operator.
func (a *app) rollouts(f func(provisionerv1.RolloutServiceClient) error) error {
	conn, err := a.connect(provisionerAddress, operatorRole)
	if err != nil {
		return err
	}
	defer func() { _ = conn.Close() }() // Nothing is under way on it.
	return f(provisionerv1.NewRolloutServiceClient(conn))
}

// selectorFlags choose tenants.
type selectorFlags struct {
	Company []string `name:"company" placeholder:"COMPANY" help:"Only these tenants, ids or slugs. Repeatable. Default: all."`
	Cluster string   `name:"cluster" placeholder:"NAME" help:"Only tenants on this cluster."`
	Behind  string   `name:"behind" placeholder:"VERSION" help:"Only tenants whose core set is older than this version."`
}

func (f selectorFlags) selector() *provisionerv1.Selector {
	return &provisionerv1.Selector{Companies: f.Company, Cluster: f.Cluster, BehindVersion: f.Behind}
}

// rolloutFlags say how a rollout goes.
type rolloutFlags struct {
	selectorFlags
	Concurrency      int32         `name:"concurrency" placeholder:"N" help:"Tenants migrated at once on each cluster, 1 to 64. Default: 4."`
	Canary           int32         `name:"canary" placeholder:"N" help:"Tenants of the first wave. Default: 1."`
	Soak             time.Duration `name:"soak" placeholder:"DURATION" help:"Wait this long after the first wave. Default: not at all."`
	Verify           bool          `name:"verify" help:"Look into every database, also those that are marked as being at the newest migrations: for after histories were changed by hand."`
	Growth           int32         `name:"growth" placeholder:"N" help:"How many times greater each wave is than the one before, 2 to 100. Default: 10."`
	Budget           string        `name:"budget" placeholder:"N|P%" help:"Stop when more than so many tenants, or so many of a hundred, fail. Default: go on whatever fails."`
	Force            bool          `name:"force" help:"Let migrations pass that the lint gate would stop as destructive, which is audited. Never skips a checksum."`
	PauseTenants     bool          `name:"pause" help:"Hold each tenant's calls at the gateways while its database changes."`
	LockTimeout      time.Duration `name:"lock-timeout" placeholder:"DURATION" help:"Longest wait for a table's lock. Default: 5s."`
	StatementTimeout time.Duration `name:"statement-timeout" placeholder:"DURATION" help:"Longest run of one statement. Default: no limit."`
}

func (f rolloutFlags) request() (*provisionerv1.StartRolloutRequest, error) {
	r := &provisionerv1.StartRolloutRequest{
		RequestId: newRequestID(), Selector: f.selector(), Concurrency: f.Concurrency, CanarySize: f.Canary, WaveGrowth: f.Growth, Force: f.Force, Verify: f.Verify, Pause: f.PauseTenants,
	}
	for _, d := range []struct {
		given time.Duration
		field **durationpb.Duration
	}{{f.Soak, &r.CanarySoak}, {f.LockTimeout, &r.LockTimeout}, {f.StatementTimeout, &r.StatementTimeout}} {
		if d.given != 0 {
			*d.field = durationpb.New(d.given)
		}
	}
	if f.Budget == "" {
		return r, nil
	}
	r.FailureBudget = &provisionerv1.FailureBudget{}
	var err error
	if percent, ok := strings.CutSuffix(f.Budget, "%"); ok {
		r.FailureBudget.Percent, err = strconv.ParseFloat(percent, 64)
	} else {
		var count int64
		count, err = strconv.ParseInt(f.Budget, 10, 32)
		r.FailureBudget.Count = int32(count)
	}
	if err != nil || r.GetFailureBudget().GetCount() <= 0 && r.GetFailureBudget().GetPercent() <= 0 {
		return nil, usagef("", "--budget: got %q, want a number of tenants such as 5, or a share such as 1%%", f.Budget)
	}
	return r, nil
}

// start starts a rollout, also through a restart of the provisioner.
func (a *app) start(ctx context.Context, client provisionerv1.RolloutServiceClient, flags rolloutFlags) (*provisionerv1.Rollout, error) {
	request, err := flags.request()
	if err != nil {
		return nil, err
	}
	var started *provisionerv1.StartRolloutResponse
	err = persist(ctx, a, func() (err error) { started, err = client.StartRollout(ctx, request); return err })
	for _, f := range started.GetRollout().GetFindings() {
		a.notef("lint: %s/%s: %s (%s)", f.GetSet(), f.GetFile(), f.GetMessage(), f.GetCode())
	}
	return started.GetRollout(), err
}

// rolloutStartCmd is `tenantry rollout start`.
type rolloutStartCmd struct {
	rolloutFlags
	Watch bool `name:"watch" help:"Follow it to its end."`
}

// Help is the long help.
func (rolloutStartCmd) Help() string {
	return `The provisioner stores its newest migrations as a release, has them judged, and brings tenants to it: a canary first, then waves that grow. It goes on by itself; "tenantry rollout watch" shows it.

Example:

    tenantry rollout start --canary 5 --soak 10m --budget 1% --watch`
}

// Run starts it.
func (c *rolloutStartCmd) Run(ctx context.Context, a *app) error {
	return a.rollouts(func(client provisionerv1.RolloutServiceClient) error {
		r, err := a.start(ctx, client, c.rolloutFlags)
		if err != nil {
			return err
		}
		if c.Watch {
			return (&watch{app: a, client: client, rollout: r, show: a.progress()}).run(ctx)
		}
		return a.printRollouts([]*provisionerv1.Rollout{r})
	})
}

// newest is the rollout of an id, or the newest for the empty one.
func newest(ctx context.Context, client provisionerv1.RolloutServiceClient, id string) (*provisionerv1.Rollout, error) {
	if id != "" {
		got, err := client.GetRollout(ctx, &provisionerv1.GetRolloutRequest{RolloutId: id})
		return got.GetRollout(), err
	}
	list, err := client.ListRollouts(ctx, &provisionerv1.ListRolloutsRequest{PageSize: 1})
	if err != nil {
		return nil, err
	}
	if len(list.GetRollouts()) == 0 {
		return nil, usagef("`tenantry rollout start` starts one.", "there is no rollout yet")
	}
	return list.GetRollouts()[0], nil
}

// rolloutArg names a rollout.
type rolloutArg struct {
	Rollout string `arg:"" optional:"" name:"rollout" help:"The rollout's id. Default: the newest."`
}

// rolloutWatchCmd is `tenantry rollout watch`.
type rolloutWatchCmd struct{ rolloutArg }

// Help is the long help.
func (rolloutWatchCmd) Help() string {
	return `On a terminal it draws the waves, the rate, the failures and an estimate of what is left; elsewhere it prints a line for each tenant. Interrupting it does not interrupt the rollout.

Example:

    tenantry rollout watch`
}

// Run watches.
func (c *rolloutWatchCmd) Run(ctx context.Context, a *app) error {
	return a.rollouts(func(client provisionerv1.RolloutServiceClient) error {
		r, err := newest(ctx, client, c.Rollout)
		if err != nil {
			return err
		}
		return (&watch{app: a, client: client, rollout: r, show: a.progress()}).run(ctx)
	})
}

// change does something to a rollout and prints it.
func (c rolloutArg) change(ctx context.Context, a *app, f func(provisionerv1.RolloutServiceClient, string) (*provisionerv1.Rollout, error)) error {
	return a.rollouts(func(client provisionerv1.RolloutServiceClient) error {
		r, err := newest(ctx, client, c.Rollout)
		if err != nil {
			return err
		}
		if r, err = f(client, r.GetRolloutId()); err != nil {
			return err
		}
		return a.printRollouts([]*provisionerv1.Rollout{r})
	})
}

// rolloutPauseCmd is `tenantry rollout pause`.
type rolloutPauseCmd struct{ rolloutArg }

// Help is the long help.
func (rolloutPauseCmd) Help() string {
	return "Example:\n\n    tenantry rollout pause"
}

// Run pauses.
func (c *rolloutPauseCmd) Run(ctx context.Context, a *app) error {
	return c.change(ctx, a, func(client provisionerv1.RolloutServiceClient, id string) (*provisionerv1.Rollout, error) {
		out, err := client.PauseRollout(ctx, &provisionerv1.PauseRolloutRequest{RolloutId: id})
		return out.GetRollout(), err
	})
}

// rolloutResumeCmd is `tenantry rollout resume`.
type rolloutResumeCmd struct{ rolloutArg }

// Help is the long help.
func (rolloutResumeCmd) Help() string {
	return "Example:\n\n    tenantry rollout resume"
}

// Run resumes.
func (c *rolloutResumeCmd) Run(ctx context.Context, a *app) error {
	return c.change(ctx, a, func(client provisionerv1.RolloutServiceClient, id string) (*provisionerv1.Rollout, error) {
		out, err := client.ResumeRollout(ctx, &provisionerv1.ResumeRolloutRequest{RolloutId: id})
		return out.GetRollout(), err
	})
}

// rolloutCancelCmd is `tenantry rollout cancel`.
type rolloutCancelCmd struct{ rolloutArg }

// Help is the long help.
func (rolloutCancelCmd) Help() string {
	return "Example:\n\n    tenantry rollout cancel"
}

// Run cancels.
func (c *rolloutCancelCmd) Run(ctx context.Context, a *app) error {
	return c.change(ctx, a, func(client provisionerv1.RolloutServiceClient, id string) (*provisionerv1.Rollout, error) {
		out, err := client.CancelRollout(ctx, &provisionerv1.CancelRolloutRequest{RolloutId: id})
		return out.GetRollout(), err
	})
}

// rolloutRetryCmd is `tenantry rollout retry`.
type rolloutRetryCmd struct{ rolloutArg }

// Help is the long help.
func (rolloutRetryCmd) Help() string {
	return "Tenants that succeeded are left alone.\n\nExample:\n\n    tenantry rollout retry"
}

// Run retries.
func (c *rolloutRetryCmd) Run(ctx context.Context, a *app) error {
	return c.change(ctx, a, func(client provisionerv1.RolloutServiceClient, id string) (*provisionerv1.Rollout, error) {
		out, err := client.RetryRollout(ctx, &provisionerv1.RetryRolloutRequest{RolloutId: id})
		return out.GetRollout(), err
	})
}

// rolloutListCmd is `tenantry rollout list`.
type rolloutListCmd struct {
	Limit int32 `name:"limit" default:"20" placeholder:"N" help:"Most rollouts to list, 1 to 1000. Default: ${default}."`
}

// Help is the long help.
func (rolloutListCmd) Help() string {
	return "Example:\n\n    tenantry rollout list"
}

// Run lists.
func (c *rolloutListCmd) Run(ctx context.Context, a *app) error {
	return a.rollouts(func(client provisionerv1.RolloutServiceClient) error {
		list, err := client.ListRollouts(ctx, &provisionerv1.ListRolloutsRequest{PageSize: c.Limit})
		if err != nil {
			return err
		}
		return a.printRollouts(list.GetRollouts())
	})
}

// rolloutShowCmd is `tenantry rollout show`.
type rolloutShowCmd struct{ rolloutArg }

// Help is the long help.
func (rolloutShowCmd) Help() string {
	return "Example:\n\n    tenantry rollout show"
}

// Run shows.
func (c *rolloutShowCmd) Run(ctx context.Context, a *app) error {
	return a.rollouts(func(client provisionerv1.RolloutServiceClient) error {
		r, err := newest(ctx, client, c.Rollout)
		if err != nil {
			return err
		}
		if err := a.printRollouts([]*provisionerv1.Rollout{r}); err != nil {
			return err
		}
		request := &provisionerv1.ListRolloutResultsRequest{RolloutId: r.GetRolloutId(), States: []provisionerv1.TenantResultState{provisionerv1.TenantResultState_TENANT_RESULT_STATE_FAILED}}
		for {
			page, err := client.ListRolloutResults(ctx, request)
			if err != nil {
				return err
			}
			for _, result := range page.GetResults() {
				if a.json {
					err = a.printJSON(result)
				} else {
					err = a.printf("%s\n", resultLine(result))
				}
				if err != nil {
					return err
				}
			}
			if request.PageToken = page.GetNextPageToken(); request.PageToken == "" {
				return nil
			}
		}
	})
}

func (a *app) printRollouts(rollouts []*provisionerv1.Rollout) error {
	var rows [][]string
	for _, r := range rollouts {
		if a.json {
			if err := a.printJSON(r); err != nil {
				return err
			}
			continue
		}
		rows = append(rows, []string{
			r.GetRolloutId(), strings.ToLower(stateName(r.GetState(), rolloutPrefix)), r.GetToVersion(), strconv.Itoa(int(r.GetTotal())),
			strconv.Itoa(int(r.GetSucceeded())), strconv.Itoa(int(r.GetFailed())), strconv.Itoa(int(r.GetPending() + r.GetRunning())),
			r.GetCreateTime().AsTime().Format(time.RFC3339), r.GetActor(), r.GetStateReason(),
		})
	}
	if a.json {
		return nil
	}
	return a.printTable([]string{"rollout", "state", "to version", "tenants", "done", "failed", "left", "started", "by", "why"}, rows)
}
