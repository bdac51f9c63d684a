package pgsession

import "strings"

func set(lists ...string) map[string]bool {
	out := map[string]bool{}
	for _, list := range lists {
		for _, word := range strings.Fields(list) {
			out[word] = true
		}
	}
	return out
}

// notCalls are the words that a parenthesis may follow without anything being called. None is the name of a function of
// PostgreSQL's that leaves something.
var notCalls = set(
	// Of queries.
	`all and any array as between both by case cast coalesce collate cross cube distinct else end except exists extract filter
	first following for from full group grouping groups having ilike in inner intersect interval is isnull join key lateral leading left like
	limit materialized natural not notnull nulls of offset on only or order ordinality outer over overlay partition position preceding
	range recursive right rollup row rows select sets similar some substring symmetric table tablesample bernoulli system then to trailing treat trim
	union unique unknown using values variadic when where window with within conflict do set returning insert into`,
	// Types with modifiers.
	`bit char character dec decimal float nchar numeric time timestamp timestamptz timetz varbit varchar varying`,
	// Written like functions, and part of the language.
	`greatest least nullif normalize xmlconcat xmlelement xmlforest xmlparse xmlpi xmlroot xmlserialize xmlexists xmltable
	xmlattributes xmlnamespaces current_time current_timestamp localtime localtimestamp passing columns`,
	// Of PL/pgSQL.
	`if elsif elseif return while loop raise perform assert query exit foreach`,
)

// harmless are functions of PostgreSQL's that leave nothing in a session. All but those of the last list are declared
// STABLE or IMMUTABLE.
var harmless = set(
	// Aggregates and windows.
	`array_agg avg bit_and bit_or bit_xor bool_and bool_or corr count covar_pop covar_samp cume_dist dense_rank every first_value
	json_agg json_object_agg jsonb_agg jsonb_object_agg lag last_value lead max min mode nth_value ntile percent_rank percentile_cont
	percentile_disc range_agg rank regr_avgx regr_avgy regr_count regr_intercept regr_r2 regr_slope regr_sxx regr_sxy regr_syy row_number stddev
	stddev_pop stddev_samp string_agg sum var_pop var_samp variance xmlagg`,
	// Numbers.
	`abs acos asin atan atan2 cbrt ceil ceiling cos cot degrees div exp factorial floor gcd lcm ln log log10 mod pi power radians
	round scale sign sin sqrt tan trunc width_bucket min_scale trim_scale generate_series numeric_inc int2 int4 int8 float4 float8 numeric`,
	// Text and bytes.
	`ascii bit_length bpchar btrim char_length character_length chr concat concat_ws convert convert_from convert_to decode encode format get_bit
	get_byte initcap left length lower lpad ltrim md5 name octet_length overlay parse_ident position quote_ident quote_literal
	quote_nullable regexp_count regexp_instr regexp_like regexp_match regexp_matches regexp_replace regexp_split_to_array
	regexp_split_to_table regexp_substr repeat replace reverse right rpad rtrim set_bit set_byte sha224 sha256 sha384 sha512 split_part
	starts_with string_to_array string_to_table strpos substr substring text to_ascii to_hex translate unistr upper varchar similar_to_escape`,
	// Time.
	`age date date_bin date_part date_trunc extract isfinite justify_days justify_hours justify_interval make_date make_interval make_time
	make_timestamp make_timestamptz now statement_timestamp to_char to_date to_number to_timestamp transaction_timestamp timezone interval`,
	// Arrays, ranges and rows.
	`array_append array_cat array_dims array_fill array_length array_lower array_ndims array_position array_positions array_prepend
	array_remove array_replace array_to_string array_upper cardinality generate_subscripts isempty lower_inc lower_inf
	range_merge trim_array unnest upper_inc upper_inf int4range int8range numrange daterange tsrange tstzrange multirange num_nonnulls num_nulls`,
	// JSON.
	`array_to_json json_array_elements json_array_elements_text json_array_length json_build_array json_build_object json_each
	json_each_text json_extract_path json_extract_path_text json_object json_object_keys json_populate_record json_populate_recordset
	json_strip_nulls json_to_record json_to_recordset json_typeof jsonb_array_elements jsonb_array_elements_text
	jsonb_array_length jsonb_build_array jsonb_build_object jsonb_each jsonb_each_text jsonb_extract_path jsonb_extract_path_text jsonb_insert
	jsonb_object jsonb_object_keys jsonb_path_exists jsonb_path_match jsonb_path_query jsonb_path_query_array
	jsonb_path_query_first jsonb_populate_record jsonb_populate_recordset jsonb_pretty jsonb_set jsonb_set_lax jsonb_strip_nulls
	jsonb_to_record jsonb_to_recordset jsonb_typeof row_to_json to_json to_jsonb`,
	// Full text, addresses, geometry, enums.
	`plainto_tsquery phraseto_tsquery setweight strip to_tsquery to_tsvector ts_headline ts_rank ts_rank_cd websearch_to_tsquery
	tsvector_to_array array_to_tsvector abbrev broadcast family host hostmask inet_merge masklen netmask network set_masklen
	enum_first enum_last enum_range box center circle diameter height line lseg path point polygon radius width area`,
	// About the server and its catalogues.
	`col_description current_catalog current_database current_role current_schema current_schemas current_setting current_user
	format_type has_any_column_privilege has_column_privilege has_database_privilege has_function_privilege has_schema_privilege
	has_sequence_privilege has_table_privilege inet_client_addr inet_client_port inet_server_addr inet_server_port obj_description
	pg_backend_pid pg_client_encoding pg_column_size pg_conf_load_time pg_function_is_visible pg_get_constraintdef pg_get_expr
	pg_get_functiondef pg_get_indexdef pg_get_keywords pg_get_partkeydef pg_get_ruledef pg_get_serial_sequence pg_get_triggerdef
	pg_get_userbyid pg_get_viewdef pg_has_role pg_is_other_temp_schema pg_listening_channels pg_my_temp_schema
	pg_postmaster_start_time pg_size_pretty pg_table_is_visible pg_trigger_depth pg_type_is_visible pg_typeof session_user
	shobj_description to_regclass to_regproc to_regtype to_regnamespace txid_current txid_current_if_assigned version
	regclass oid pg_encoding_to_char`,
	volatileAndHarmless,
)

// volatileAndHarmless are the functions that PostgreSQL declares VOLATILE, and that leave nothing all the same.
const volatileAndHarmless = `clock_timestamp gen_random_uuid pg_blocking_pids pg_database_size pg_indexes_size pg_is_in_recovery pg_notify
	pg_relation_size pg_sleep pg_sleep_for pg_sleep_until pg_table_size pg_total_relation_size pg_xact_status random timeofday
	pg_advisory_xact_lock pg_advisory_xact_lock_shared pg_try_advisory_xact_lock pg_try_advisory_xact_lock_shared`

// resettable are functions of PostgreSQL's that leave what a reset takes away, and do nothing with prepared statements.
var resettable = set(`currval lastval nextval setval set_config setseed pg_advisory_lock pg_advisory_lock_shared pg_advisory_unlock
	pg_advisory_unlock_all pg_advisory_unlock_shared pg_try_advisory_lock pg_try_advisory_lock_shared lo_close lo_creat lo_create lo_from_bytea lo_get
	lo_lseek lo_lseek64 lo_open lo_put lo_tell lo_tell64 lo_truncate lo_truncate64 lo_unlink loread lowrite`)
